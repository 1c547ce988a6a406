package main

import (
	"fmt"
	"log/slog"
	"net/url"
	"os"
	"path/filepath"
	"strings"

	"github.com/coreos/go-systemd/v22/daemon"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"weir/agent"
	"weir/haproxy"
	"weir/heartbeat"
)

// nodeCommand is the agent of one load-balancer instance, and below it are the verbs for a
// user who has machines of their own.
func nodeCommand(u *user) *cobra.Command {
	var c agent.Config
	cmd := &cobra.Command{
		Use:   "node",
		Short: "Run HAProxy on this machine as a control plane says",
		Long: `weir node is the agent of a load balancer's instance. It enrols once with a single-use
token, brings HAProxy to the configuration that the control plane has for this node, and
reports. All that it needs to go on is in its data directory: without the control plane
it serves what it last served, across restarts too. HAProxy outlives it.

A machine of your own joins with the token that weir node token prints, which says which
control plane to trust. The verbs below are for the one who runs the control plane.`,
		Example: `  weir node --join https://192.0.2.11:7071,https://192.0.2.12:7071 --token /etc/weir/node.token
  weir install node --join https://192.0.2.11:7071 --token /etc/weir/node.token   # as a service of systemd
  weir node token lb-a >lb-a.token      # on the control plane: lets a machine join as lb-a
  weir node list`,
		Args: arguments(0, 0, "no arguments"),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := checkNode(&c); err != nil {
				return err
			}
			version, err := haproxy.Detect(cmd.Context(), c.HAProxy)
			if err != nil {
				return err
			}
			outliveReader()
			leanMemory()
			priority := "real time"
			if err := heartbeat.Prioritize(); err != nil {
				priority = "ordinary" // an agent that waits for its turn looks dead to its peer; it has to do
			}
			c.Alive = func() { notify(c.Log, daemon.SdNotifyWatchdog) }
			c.Log = slog.New(slog.NewTextHandler(cmd.ErrOrStderr(), nil))
			c.Log.Info("agent starts", "control", c.URLs, "data", c.Dir, "haproxy", version, "priority", priority)
			notify(c.Log, daemon.SdNotifyReady)
			return agent.Run(cmd.Context(), c)
		},
	}
	nodeFlags(cmd.Flags(), &c)
	cmd.AddCommand(nodeTokenCommand(u), nodeListCommand(u), nodeRemoveCommand(u))
	return cmd
}

func nodeFlags(f *pflag.FlagSet, c *agent.Config) {
	f.StringSliceVar(&c.URLs, "join", nil, "`URLs` of the control plane's members, https://HOST:PORT, separated by commas")
	f.StringVar(&c.TokenFile, "token", "", "`file` with the token to enrol with")
	f.StringVar(&c.CAFile, "ca", "", "`file` with the certificate of the control plane's authority, where the token does not tell it")
	f.StringVar(&c.Dir, "data", "/var/lib/weir/node", "`directory` for all that the node keeps")
	f.StringVar(&c.HAProxy, "haproxy", "haproxy", "the HAProxy to run (`program`)")
}

// checkNode returns what is wrong with a command line, before anything is done.
func checkNode(c *agent.Config) error {
	for _, flag := range []struct{ name, value, want string }{
		{"--join", strings.Join(c.URLs, ","), "the control plane's URL, such as https://10.0.0.1:7071"},
		{"--token", c.TokenFile, "the file that has this node's token"},
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
	if c.CAFile == "" {
		return nil
	}
	if _, err := os.ReadFile(c.CAFile); err != nil {
		return fmt.Errorf("--ca: %w", err)
	}
	return nil
}
