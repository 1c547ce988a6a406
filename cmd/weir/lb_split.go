package main

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"weir/api"
	"weir/weir"
)

type splitting struct {
	user   *user
	format format
	group  string // whose requests
	none   bool

	patience patience
}

func lbSplitCommand(u *user) *cobra.Command {
	s := splitting{user: u}
	cmd := &cobra.Command{
		Use:   "split [LOAD-BALANCER] [GROUP=PERCENT...]",
		Short: "Have target groups share requests",
		Long: `Have target groups share the requests of a load balancer's own machines: a canary by 5
percent, or all of them, which is a switch from blue to green. What is left is for its
own machines. It returns once that is so on all instances; nothing is reloaded, and
no request is lost. Without percentages it shows who shares.

With --group it is about the requests that routes send to that group.

The load balancer is given by name or ID, and need not be if there is only one.`,
		Example: `  weir lb split web green=5
  weir lb split web green=100
  weir lb split web --none
  weir lb split web --group api api-next=10
  weir lb split web`,
		RunE: func(cmd *cobra.Command, args []string) error {
			return s.run(cmd.Context(), args, cmd.OutOrStdout(), cmd.ErrOrStderr())
		},
		ValidArgsFunction: u.balancers,
	}
	cmd.Flags().StringVar(&s.group, "group", "", "the target `group` whose requests are shared; the load balancer's own machines if left out")
	cmd.Flags().BoolVar(&s.none, "none", false, "end the sharing")
	s.format.flags(cmd)
	s.patience.flags(cmd)
	return cmd
}

// shares returns the percentages of a command line, and what is before them.
func shares(args []string) (before []string, split map[string]int, err error) {
	split = map[string]int{}
	for i, arg := range args {
		name, text, is := strings.Cut(arg, "=")
		if !is {
			if i > 0 {
				return nil, nil, usageErrorf("%q is no share, want one such as green=5", arg)
			}
			before = args[:1]
			continue
		}
		percent, err := strconv.Atoi(strings.TrimSuffix(text, "%"))
		if err != nil || name == "" || percent < 0 || percent > 100 {
			return nil, nil, usageErrorf("%q is no share, want a group and 0 to 100, such as green=5", arg)
		}
		if _, twice := split[name]; twice {
			return nil, nil, usageErrorf("group %q is there twice", name)
		}
		split[name] = percent
	}
	return before, split, nil
}

func (s *splitting) run(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	before, split, err := shares(args)
	if err != nil {
		return err
	}
	if s.none && len(split) > 0 {
		return usageErrorf("--none ends the sharing, and there are shares too: leave one of them out")
	}
	c, lb, err := s.user.chosen(ctx, before)
	if err != nil {
		return err
	}
	var is api.LoadBalancerWeir
	asked := false
	if len(split) == 0 && !s.none {
		is, _, err = c.policy(ctx, http.MethodGet, "/v2/load_balancers/"+string(lb.ID), nil)
	} else {
		is, _, err = c.policy(ctx, http.MethodPut, verbOf(lb.ID, "split"), api.Splitting{Split: split, Group: s.group})
		asked = err == nil
	}
	if ctx.Err() != nil {
		return interruptedf("it may be so already; weir lb split %s shows it", lb.Name)
	}
	if err != nil {
		return err
	}
	if asked {
		if err := s.patience.live(ctx, c, lb, stderr); err != nil {
			return err
		}
	}
	if s.format.json {
		return writeJSON(stdout, is)
	}
	return s.print(stdout, lb.Name, is)
}

// print says who shares: the requests of the group that is meant, or of all of which some are shared.
func (s *splitting) print(w io.Writer, lb string, is api.LoadBalancerWeir) error {
	var lines []string
	if s.group == "" {
		lines = append(lines, fmt.Sprintf("%s: %s", lb, weir.Split(is.Split).Among(weir.OwnTargets)))
	}
	known := s.group == ""
	for _, g := range is.TargetGroups {
		known = known || g.Name == s.group
		if g.Name == s.group || s.group == "" && len(g.Split) > 0 {
			lines = append(lines, fmt.Sprintf("%s, group %s: %s", lb, g.Name, weir.Split(g.Split).Among(g.Name)))
		}
	}
	if !known {
		return fmt.Errorf("load balancer %q has no target group %q", lb, s.group)
	}
	_, err := fmt.Fprintln(w, strings.Join(lines, "\n"))
	return err
}

// verbOf returns the path of something that is done to a load balancer, or asked of it.
func verbOf(lb weir.ID, verb string) string {
	return "/v2/weir/load_balancers/" + string(lb) + "/" + verb
}

// policy makes a request that is answered with a load balancer, and returns what that does beyond DigitalOcean's. alone
// reports of a server that is drained that nothing else serves in its stead.
func (c *client) policy(ctx context.Context, method, path string, body any) (is api.LoadBalancerWeir, alone bool, err error) {
	var answer struct {
		LoadBalancer *struct {
			Weir api.LoadBalancerWeir `json:"weir"`
		} `json:"load_balancer"`
		Alone bool `json:"alone"`
	}
	_, err = c.do(ctx, method, path, body, &answer)
	if err == nil && answer.LoadBalancer == nil {
		err = c.stranger()
	}
	if err != nil {
		return is, false, err
	}
	return answer.LoadBalancer.Weir, answer.Alone, nil
}
