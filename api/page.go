package api

import (
	"net/http"
	"net/url"
	"strconv"
)

// How many things a page of a list has: unless asked otherwise, and at most.
const (
	defaultPage = 20
	maxPage     = 200
)

// links are the pages beside this one, each only if it exists, or the actions that a
// request has begun.
type links struct {
	Pages    *pages       `json:"pages,omitempty"`
	Actions  []actionLink `json:"actions,omitempty"`
	Droplets []actionLink `json:"droplets,omitempty"`
}

type pages struct {
	First string `json:"first,omitempty"`
	Prev  string `json:"prev,omitempty"`
	Next  string `json:"next,omitempty"`
	Last  string `json:"last,omitempty"`
}

type actionLink struct {
	ID   int64  `json:"id"`
	Rel  string `json:"rel"`
	HREF string `json:"href"`
}

type meta struct {
	Total int `json:"total"`
}

// list answers with the page of all that was asked for, below the key root; each thing
// is put in words only if it is on the page.
func list[T, W any](w http.ResponseWriter, r *http.Request, root string, all []T, words func(T) W) error {
	return pageOf(w, r, root, cut(all), words)
}

// reader reads a page: at most n of all, those after the first from, and how many there are.
type reader[T any] func(from, n int) (page []T, total int, err error)

// cut reads pages of what was read whole.
func cut[T any](all []T) reader[T] {
	return func(from, n int) ([]T, int, error) {
		from = min(from, len(all))
		return all[from:min(from+n, len(all))], len(all), nil
	}
}

// pageOf is list where read returns the page.
func pageOf[T, W any](w http.ResponseWriter, r *http.Request, root string, read reader[T], words func(T) W) error {
	return pageWith(w, r, root, read, func(t T) (W, error) { return words(t), nil })
}

// pageWith is pageOf where what a thing is in words has yet to be read, which may fail.
func pageWith[T, W any](w http.ResponseWriter, r *http.Request, root string, read reader[T], words func(T) (W, error)) error {
	page, err := natural(r, "page", 1)
	if err != nil {
		return err
	}
	size, err := natural(r, "per_page", defaultPage)
	if err != nil {
		return err
	}
	size = min(size, maxPage)
	here, total, err := read((page-1)*size, size)
	if err != nil {
		return err
	}
	around := links{Pages: pagesAround(r, page, max(1, (total+size-1)/size))}
	var one W
	if out, ok := any(&one).(appender); ok {
		b := append(append(append(make([]byte, 0, 256+len(here)*1536), `{"`...), root...), `":[`...)
		for i := range here {
			if i > 0 {
				b = append(b, ',')
			}
			if one, err = words(here[i]); err != nil {
				return err
			}
			b = out.appendTo(b)
		}
		b = append(append(b, `],"links":`...), encoded(around)...)
		send(w, http.StatusOK, append(append(append(b, `,"meta":`...), encoded(meta{total})...), '}'))
		return nil
	}
	out := make([]W, len(here))
	for i := range here {
		if out[i], err = words(here[i]); err != nil {
			return err
		}
	}
	return reply(w, http.StatusOK, map[string]any{root: out, "links": around, "meta": meta{total}})
}

// pagesAround returns the links of a page, or nil for the only one.
func pagesAround(r *http.Request, page, last int) *pages {
	at := func(n int) string {
		q := r.URL.Query()
		q.Set("page", strconv.Itoa(n))
		return address(r, r.URL.Path, q)
	}
	var p pages
	if page > 1 {
		p.First, p.Prev = at(1), at(min(page-1, last))
	}
	if page < last {
		p.Next, p.Last = at(page+1), at(last)
	}
	if p == (pages{}) {
		return nil
	}
	return &p
}

// address returns the URL of a path of this API as the caller of r knows it.
func address(r *http.Request, path string, query url.Values) string {
	u := url.URL{Scheme: "http", Host: r.Host, Path: path, RawQuery: query.Encode()}
	if r.TLS != nil {
		u.Scheme = "https"
	}
	return u.String()
}

// linkTo returns a link to an action.
func linkTo(r *http.Request, id int64, rel string) actionLink {
	return actionLink{id, rel, address(r, "/v2/actions/"+strconv.FormatInt(id, 10), nil)}
}

// natural returns a parameter of the query that counts from 1; 0 and nothing are other.
func natural(r *http.Request, name string, other int) (int, error) {
	text := r.URL.Query().Get(name)
	if text == "" {
		return other, nil
	}
	n, err := strconv.ParseUint(text, 10, 31)
	if err != nil {
		return 0, invalid("%s is %.40q, want a number from 1", name, text)
	}
	if n == 0 {
		return other, nil
	}
	return int(n), nil
}
