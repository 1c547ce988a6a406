package main

import (
	"fmt"
	"log/slog"
	"net/url"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"weir/agent"
	"weir/haproxy"
)

// nodeCommand is the agent of one load-balancer instance.
func nodeCommand() *cobra.Command {
	c := agent.Config{}
	cmd := &cobra.Command{
		Use:   "node",
		Short: "Run HAProxy on this machine as a control plane says",
		Long: `weir node is the agent of a load balancer's instance. It enrols once with a single-use
token, brings HAProxy to the configuration that the control plane has for this node, and
reports. All that it needs to go on is in its data directory: without the control plane
it serves what it last served, across restarts too. HAProxy outlives it.`,
		Example: `  weir node --join https://10.0.0.1:7071 --token /etc/weir/token --ca /etc/weir/ca.pem`,
		Args:    arguments(0, 0, "no arguments"),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := checkNode(&c); err != nil {
				return err
			}
			version, err := haproxy.Detect(cmd.Context(), c.HAProxy)
			if err != nil {
				return err
			}
			leanMemory()
			c.Log = slog.New(slog.NewTextHandler(cmd.ErrOrStderr(), nil))
			c.Log.Info("agent starts", "control", c.URLs, "data", c.Dir, "haproxy", version)
			return agent.Run(cmd.Context(), c)
		},
	}
	flags := cmd.Flags()
	flags.StringSliceVar(&c.URLs, "join", nil, "`URL` of the control plane, https://HOST:PORT")
	flags.StringVar(&c.TokenFile, "token", "", "file with the token to enrol with")
	flags.StringVar(&c.CAFile, "ca", "", "file with the certificate of the control plane's authority")
	flags.StringVar(&c.Dir, "data", "/var/lib/weir/node", "directory for all that the node keeps")
	flags.StringVar(&c.HAProxy, "haproxy", "haproxy", "the HAProxy to run")
	return cmd
}

// checkNode returns what is wrong with a command line, before anything is done.
func checkNode(c *agent.Config) error {
	for _, flag := range []struct{ name, value, want string }{
		{"--join", strings.Join(c.URLs, ","), "the control plane's URL, such as https://10.0.0.1:7071"},
		{"--token", c.TokenFile, "the file that has this node's token"},
		{"--ca", c.CAFile, "the file that has the certificate of the control plane's authority"},
		{"--data", c.Dir, "a directory"},
		{"--haproxy", c.HAProxy, "a program"},
	} {
		if flag.value == "" {
			return usageErrorf("%s is missing, want %s", flag.name, flag.want)
		}
	}
	for _, member := range c.URLs {
		if u, err := url.Parse(member); err != nil || u.Scheme != "https" || u.Hostname() == "" {
			return usageErrorf("--join is %q, want a URL such as https://10.0.0.1:7071", member)
		}
	}
	dir, err := filepath.Abs(c.Dir)
	if err != nil {
		return fmt.Errorf("--data %s: %w", c.Dir, err)
	}
	c.Dir = dir
	if _, err := os.ReadFile(c.CAFile); err != nil {
		return fmt.Errorf("--ca: %w", err)
	}
	return nil
}
