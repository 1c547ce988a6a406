package main

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"weir/config"
	"weir/control"
	"weir/haproxy"
	"weir/weir"
)

// snippets are the operator's own lines of HAProxy's configuration, as the files of --config have them.
type snippets struct {
	files []string
	ctl   *control.Control
	log   *slog.Logger
}

// read returns what the files say, by the names of load balancers, each checked by HAProxy.
func (s *snippets) read(ctx context.Context) (map[string]weir.Snippets, error) {
	all, from := map[string]weir.Snippets{}, map[string]string{}
	for _, file := range s.files {
		app, err := config.Load(file)
		if err != nil {
			return nil, fmt.Errorf("--config: %w", err)
		}
		name := app.LoadBalancer.Name
		if other := from[name]; other != "" {
			return nil, fmt.Errorf("--config: %s and %s are both for load balancer %s, want one of them", other, file, name)
		}
		from[name] = file
		if app.Snippets.Empty() {
			continue
		}
		if err := haproxy.CheckSnippets(ctx, "", app.Snippets); err != nil {
			return nil, fmt.Errorf("--config: %s: %w", file, err)
		}
		all[name] = app.Snippets
	}
	return all, nil
}

// set makes what the files say so. Without files what was set before stays.
func (s *snippets) set(ctx context.Context) error {
	if len(s.files) == 0 {
		return nil
	}
	all, err := s.read(ctx)
	if err != nil {
		return err
	}
	changed, err := s.ctl.SetSnippets(ctx, all)
	if err == nil && len(changed) > 0 {
		s.log.Info("snippets of haproxy's configuration changed", "lb", strings.Join(changed, " "))
	}
	return err
}

// run does set at each SIGUSR1 until ctx ends. Files that are wrong change nothing, and the log says why.
func (s *snippets) run(ctx context.Context) error {
	again := make(chan os.Signal, 1)
	signal.Notify(again, syscall.SIGUSR1)
	defer signal.Stop(again)
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-again:
			if err := s.set(ctx); err != nil && ctx.Err() == nil {
				s.log.Error("snippets of haproxy's configuration stay as they are", "err", err)
			}
		}
	}
}
