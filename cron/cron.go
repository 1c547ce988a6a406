// Package cron says when a schedule begins that is written as cron has it: minute, hour, day of the
// month, month, day of the week, in the time of some place.
package cron

import (
	"strings"
	"time"
	_ "time/tzdata" // not every host has it
	"unicode"

	robfig "github.com/robfig/cron/v3"

	"weir/weir"
)

// Schedule is when something begins.
type Schedule struct{ when robfig.Schedule }

// Parse reads a schedule. The zone is a name such as Europe/Berlin; UTC if it is empty. What cannot be read,
// and what never begins, is weir.Invalid.
func Parse(words, zone string) (Schedule, error) {
	if zone == "Local" {
		return Schedule{}, weir.Errorf(weir.Invalid, "timezone is Local, want a name such as Europe/Berlin")
	}
	place, err := time.LoadLocation(zone)
	if err != nil {
		return Schedule{}, weir.Errorf(weir.Invalid, "timezone is %.60q, want a name such as Europe/Berlin", zone)
	}
	other := func(r rune) bool { return !unicode.IsPrint(r) && !unicode.IsSpace(r) }
	if strings.Contains(words, "=") || strings.ContainsFunc(words, other) { // it would be another zone
		return Schedule{}, weir.Errorf(weir.Invalid, "cron is %.60q, want five fields such as 0 8 * * 1-5", words)
	}
	when, err := robfig.NewParser(robfig.Minute | robfig.Hour | robfig.Dom | robfig.Month | robfig.Dow).Parse(words)
	if err != nil {
		return Schedule{}, weir.Errorf(weir.Invalid, "cron is %.60q, want five fields such as 0 8 * * 1-5: %w", words, err)
	}
	if s, ok := when.(*robfig.SpecSchedule); ok {
		s.Location = place
	}
	if when.Next(time.Date(2024, 1, 1, 0, 0, 0, 0, time.UTC)).IsZero() {
		return Schedule{}, weir.Errorf(weir.Invalid, "cron is %.60q, which never comes", words)
	}
	return Schedule{when}, nil
}

// Next returns when the schedule next begins after t, in its own zone.
func (s Schedule) Next(t time.Time) time.Time {
	next := s.when.Next(t)
	if spec, ok := s.when.(*robfig.SpecSchedule); ok {
		return next.In(spec.Location)
	}
	return next
}

// Around returns when the schedule began that lasts at t, of which each time lasts so long, if it
// does, and when it next begins after t.
func (s Schedule) Around(t time.Time, lasts time.Duration) (begins []time.Time) {
	begun, next := s.Next(t.Add(-lasts)), s.Next(t)
	if begun.Before(next) {
		begins = append(begins, begun)
	}
	return append(begins, next)
}
