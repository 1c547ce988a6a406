package api

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"reflect"
	"regexp"
	"strconv"
	"strings"

	"weir/weir"
)

// maxBody is how long a request's body may be, in bytes. A thousand names and the
// longest user-data fit several times.
const maxBody = 1 << 20

// decode reads a request's body into v, a pointer to a struct. Unknown fields and nulls
// are ignored; a field of a wrong type is refused by its name.
func decode(w http.ResponseWriter, r *http.Request, v any) error {
	return decodeFrom(json.NewDecoder(http.MaxBytesReader(w, r.Body, maxBody)), v)
}

// decodeOwn reads the body of a call that no client of DigitalOcean's makes: an unknown field is refused, as what is left
// out of such a body is not done.
func decodeOwn(w http.ResponseWriter, r *http.Request, v any) error {
	d := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxBody))
	d.DisallowUnknownFields()
	return decodeFrom(d, v)
}

func decodeFrom(d *json.Decoder, v any) error {
	err := d.Decode(v)
	if err == nil {
		if _, more := d.Token(); more != io.EOF {
			err = errors.New("something follows the JSON value")
		}
	}
	if name := unknownIn(err); name != "" {
		return invalid("%.80s is unknown, want only fields that there are", name)
	}
	var tooLong *http.MaxBytesError
	var wrong *json.UnmarshalTypeError
	switch {
	case err == nil:
		return nil
	case weir.KindOf(err) == weir.Invalid:
		return err
	case errors.As(err, &tooLong):
		return &statusError{http.StatusRequestEntityTooLarge, fmt.Sprintf("the body is longer than %d bytes", maxBody)}
	case errors.As(err, &wrong) && wrong.Field == "":
		return invalid("the body is a JSON %s, want an object", wrong.Value)
	case errors.As(err, &wrong):
		return invalid("%s is %s, want %s", wrong.Field, article(wrong.Value), inJSON(wrong.Type))
	case errors.Is(err, io.EOF):
		return &statusError{http.StatusBadRequest, "the body is empty, want a JSON object"}
	case errors.Is(err, io.ErrUnexpectedEOF):
		return &statusError{http.StatusBadRequest, "the body ends in the middle of its JSON"}
	}
	return &statusError{http.StatusBadRequest, "the body is not JSON: " + err.Error()}
}

// unknownIn returns the name, in quotes, of the field that err says is in no struct, or "". Package json has no type for
// that error.
func unknownIn(err error) string {
	if err == nil {
		return ""
	}
	name, is := strings.CutPrefix(err.Error(), "json: unknown field ")
	if !is {
		return ""
	}
	return name
}

// article puts the article before what a value of JSON is called.
func article(value string) string {
	if strings.HasPrefix(value, "array") || strings.HasPrefix(value, "object") {
		return "an " + value
	}
	return "a " + value
}

// inJSON says what a Go type is called in JSON.
func inJSON(t reflect.Type) string {
	switch t.Kind() {
	case reflect.Bool:
		return "true or false"
	case reflect.Int, reflect.Int64, reflect.Uint64:
		return "an integer"
	case reflect.Float64:
		return "a number"
	case reflect.String:
		return "a string"
	case reflect.Slice:
		return "an array"
	case reflect.Pointer:
		return inJSON(t.Elem())
	}
	return "an object"
}

// word is a string that clients also write as a number: an image's or a key's ID.
type word string

// UnmarshalJSON takes a string, an integer, or null for nothing.
func (s *word) UnmarshalJSON(data []byte) error {
	var text string
	switch {
	case string(data) == "null":
		return nil
	case json.Unmarshal(data, &text) == nil:
		*s = word(text)
		return nil
	}
	if _, err := strconv.ParseInt(string(data), 10, 64); err == nil {
		*s = word(data)
		return nil
	}
	return &json.UnmarshalTypeError{Value: "value of another type", Type: reflect.TypeFor[string]()}
}

// anything is a value of which only matters whether it says something: null, false, 0,
// "", and arrays and objects of nothing else, do not.
type anything bool

// UnmarshalJSON takes whatever is JSON.
func (a *anything) UnmarshalJSON(data []byte) error {
	var v any
	if err := json.Unmarshal(data, &v); err != nil {
		return err
	}
	*a = anything(says(v))
	return nil
}

func says(v any) bool {
	switch v := v.(type) {
	case map[string]any:
		for _, e := range v {
			if says(e) {
				return true
			}
		}
		return false
	case []any:
		for _, e := range v {
			if says(e) {
				return true
			}
		}
		return false
	}
	return v != nil && v != false && v != 0.0 && v != ""
}

var (
	decimal = regexp.MustCompile(`^[1-9][0-9]{0,17}$`)
	opaque  = regexp.MustCompile(`^[0-9A-Za-z-]{1,64}$`)
)

// numericID returns the ID of a machine or an action in a path. What cannot be one is
// not there.
func numericID(r *http.Request, name string) (weir.ID, error) {
	id := r.PathValue(name)
	if !decimal.MatchString(id) {
		return "", errNotFound
	}
	return weir.ID(id), nil
}

// opaqueID returns the ID of anything else in a path. What cannot be one is not there.
func opaqueID(r *http.Request, name string) (weir.ID, error) {
	id := r.PathValue(name)
	if !opaque.MatchString(id) {
		return "", errNotFound
	}
	return weir.ID(id), nil
}

// machineIDs turns droplets' numbers into IDs, each once, in the order given.
func machineIDs(numbers []int64) ([]weir.ID, error) {
	seen := map[int64]bool{}
	var ids []weir.ID
	for i, n := range numbers {
		if n < 1 {
			return nil, invalid("droplet_ids[%d] is %d, want the ID of a droplet", i, n)
		}
		if !seen[n] {
			seen[n] = true
			ids = append(ids, weir.ID(strconv.FormatInt(n, 10)))
		}
	}
	return ids, nil
}

// number returns an ID as clients have it. Machines and actions have decimal IDs; any
// other is 0, which no client takes for one.
func number(id weir.ID) int64 {
	n, err := strconv.ParseInt(string(id), 10, 64)
	if err != nil {
		return 0
	}
	return n
}

// regionOf returns which of all regions a body means: the first if it names none, and whichever it names in another
// case, as clients that keep it in lower case may write it.
func regionOf(name string, all ...string) string {
	if name == "" {
		return all[0]
	}
	for _, region := range all {
		if strings.EqualFold(name, region) {
			return region
		}
	}
	return name
}

// truth returns the value of a parameter of the query that is true or false.
func truth(r *http.Request, name string) (bool, error) {
	text := r.URL.Query().Get(name)
	if text == "" {
		return false, nil
	}
	v, err := strconv.ParseBool(strings.ToLower(text))
	if err != nil {
		return false, invalid("%s is %.40q, want true or false", name, text)
	}
	return v, nil
}

// stranger returns the name, in quotes, of a field in data that v has none of, or "".
func stranger(data []byte, v any) string {
	d := json.NewDecoder(bytes.NewReader(data))
	d.DisallowUnknownFields()
	return unknownIn(d.Decode(v))
}
