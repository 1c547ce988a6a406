package cron

import (
	"errors"
	"strings"
	"testing"
	"time"

	"weir/weir"
)

func TestScheduleIsOfItsZone(t *testing.T) {
	for _, c := range []struct{ words, zone, after, want string }{
		{"0 8 * * 1-5", "Europe/Berlin", "2026-01-09T12:00:00Z", "2026-01-12T08:00:00+01:00"},
		{"0 8 * * 1-5", "Europe/Berlin", "2026-07-03T12:00:00Z", "2026-07-06T08:00:00+02:00"},
		{"0 8 * * *", "", "2026-07-03T08:00:00Z", "2026-07-04T08:00:00Z"},
		{"30 2 * * *", "Europe/Berlin", "2026-03-28T12:00:00Z", "2026-03-30T02:30:00+02:00"}, // on the 29th there is no such time
	} {
		s, err := Parse(c.words, c.zone)
		if err != nil {
			t.Fatal(err)
		}
		after, err := time.Parse(time.RFC3339, c.after)
		if err != nil {
			t.Fatal(err)
		}
		if got := s.Next(after).Format(time.RFC3339); got != c.want {
			t.Errorf("%s in %s after %s: %s, want %s", c.words, c.zone, c.after, got, c.want)
		}
	}
}

func TestWhatIsNoScheduleIsRefused(t *testing.T) {
	for _, c := range []struct{ words, zone, want string }{
		{"0 8 * *", "", "five fields"},
		{"@every 1s", "", "five fields"},
		{"TZ=", "", "five fields"},
		{"TZ=UTC 0 8 * * *", "", "five fields"},
		{"0 8 31 2 *", "", "never comes"},
		{"0 25 * * *", "", "five fields"},
		{"0 8 * * *", "Middle/Earth", "timezone"},
		{"0 8 * * *", "../../etc/passwd", "timezone"},
		{"0 8 * * *", "Local", "timezone"},
	} {
		if _, err := Parse(c.words, c.zone); !errors.Is(err, weir.Invalid) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%q in %q: %v, want an error about %s", c.words, c.zone, err, c.want)
		}
	}
}

func TestScheduleThatLastsIsAmongThoseAround(t *testing.T) {
	s, err := Parse("0 8,20 * * *", "")
	if err != nil {
		t.Fatal(err)
	}
	for at, want := range map[string]string{"07:59": "08:00", "08:00": "08:00 20:00", "09:59": "08:00 20:00", "10:00": "20:00"} {
		now, _ := time.Parse(time.TimeOnly, at+":00")
		var got []string
		for _, begin := range s.Around(now, 2*time.Hour) {
			got = append(got, begin.Format("15:04"))
		}
		if strings.Join(got, " ") != want {
			t.Errorf("at %s: %s, want %s", at, got, want)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add("0 8 * * 1-5", "Europe/Berlin")
	f.Add("*/7 1,2 1-31/3 jan sun", "UTC")
	f.Fuzz(func(t *testing.T, words, zone string) {
		if s, err := Parse(words, zone); err == nil && s.Next(time.Now()).IsZero() {
			t.Errorf("%q in %q never comes, and was not refused", words, zone)
		}
	})
}
