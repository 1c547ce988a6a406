package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"
)

// tale is what a verb tells: what there is, and if it follows also what comes, until Ctrl-C.
type tale[T any] struct {
	format  format
	follow  bool
	every   time.Duration // between looks for what comes
	nothing string        // said if there is nothing

	tell func(T) error // for people
	next func(context.Context) ([]T, error)
}

// run tells of first, and of what comes after it. While the API is away it says so once, and goes on.
func (t *tale[T]) run(ctx context.Context, first []T, stdout, stderr io.Writer) error {
	tell := t.tell
	switch {
	case t.format.json && !t.follow:
		return writeJSON(stdout, append([]T{}, first...))
	case t.format.json:
		lines := json.NewEncoder(stdout)
		lines.SetEscapeHTML(false)
		tell = func(e T) error { return lines.Encode(e) }
	case len(first) == 0 && !t.follow:
		fmt.Fprintln(stderr, t.nothing)
	}
	for away := false; ; {
		for _, e := range first {
			if err := tell(e); err != nil {
				return err
			}
		}
		if !t.follow {
			return nil
		}
		select {
		case <-ctx.Done():
			return nil // that is how following ends
		case <-time.After(t.every):
		}
		var err error
		first, err = t.next(ctx)
		switch {
		case ctx.Err() != nil:
			return nil
		case errors.Is(err, errAway):
			if !away {
				fmt.Fprintf(stderr, "note: %s; trying again\n", oneLine(err.Error()))
			}
			away = true
		case err != nil:
			return err
		case away:
			fmt.Fprintln(stderr, "note: the API answers again")
			away = false
		}
	}
}
