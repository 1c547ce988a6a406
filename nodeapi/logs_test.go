package nodeapi

import (
	"context"
	"errors"
	"fmt"
	"io"
	"testing"
	"testing/synctest"
	"time"

	"weir/weir"
)

func TestLogQueriesComeAtOnceAndLinesForAsLongAsSomebodyAsks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newBubbleServer(t)
		s.Admit("17", "secret")
		c := s.enrolled(t, "secret")
		if _, ok, err := c.LogQueries(t.Context(), 0); ok || err != nil {
			t.Fatalf("nothing is asked: %t, %v, want an answer without anything", ok, err)
		}
		go func() {
			time.Sleep(20 * time.Second)
			s.Ask(weir.LogQuery{ID: "q1", Recent: 5, Follow: true, LogFilter: weir.LogFilter{From: 500, To: 599}})
		}()
		began := time.Now()
		q, ok, err := c.LogQueries(t.Context(), 0)
		if err != nil || !ok || len(q.Queries) != 1 || q.Queries[0].Recent != 5 || q.Queries[0].To != 599 || time.Since(began) != 20*time.Second {
			t.Fatalf("got %+v, %t, %v after %s, want the query when it is asked", q, ok, err, time.Since(began))
		}
		done := make(chan error, 1)
		go func() {
			done <- c.SendLog(t.Context(), "q1", func(ctx context.Context, w io.Writer) error {
				for i := 0; ; i++ {
					if _, err := fmt.Fprintf(w, "line %d\n", i); err != nil {
						return err
					}
					if i == 1 {
						<-ctx.Done() // for hours there is nothing to say
						return ctx.Err()
					}
				}
			})
		}()
		time.Sleep(3 * time.Hour)
		if got := s.Logged("q1"); got != "line 0\nline 1\n" {
			t.Errorf("what came is %q, want two lines", got)
		}
		select {
		case err := <-done:
			t.Fatalf("SendLog ended with %v, while somebody asks", err)
		default:
		}
		s.Ask()
		time.Sleep(time.Second)
		select {
		case err := <-done:
			if err != nil {
				t.Errorf("SendLog ended with %v, want none", err)
			}
		default:
			t.Error("SendLog goes on, and nobody asks")
		}
	})
}

func TestLinesEndWithTheirSender(t *testing.T) {
	s := newServer(t)
	s.Admit("17", "secret")
	c := s.enrolled(t, "secret")
	s.Ask(weir.LogQuery{ID: "q1"})
	err := c.SendLog(t.Context(), "q1", func(_ context.Context, w io.Writer) error {
		_, err := io.WriteString(w, "all there is\n")
		return err
	})
	if got := s.Logged("q1"); err != nil || got != "all there is\n" {
		t.Errorf("got %q and %v, want the line and no error", got, err)
	}
	err = c.SendLog(t.Context(), "q2", func(ctx context.Context, w io.Writer) error {
		<-ctx.Done()
		return ctx.Err()
	})
	if !errors.Is(err, weir.Denied) {
		t.Errorf("a query that nobody asks: %v, want a weir.Denied error", err)
	}
}
