// Command weir is all of Weir: weir dev runs a region on this machine, weir serve the
// control plane of machines of one's own, weir node is the agent of a load balancer's
// instance, and the other verbs are a user's. Those speak to the API and know nothing of
// what is behind it.
//
// An error is one line on standard error. The exit status is 1 for what could not be
// done, 2 for a command line that cannot be meant, and 130 after Ctrl-C.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

func main() {
	// After the first Ctrl-C a command ends what it does; the second ends the command. So it does when its
	// terminal is closed, unless nohup has said otherwise.
	ends := []os.Signal{os.Interrupt, syscall.SIGTERM}
	if !signal.Ignored(syscall.SIGHUP) {
		ends = append(ends, syscall.SIGHUP)
	}
	ctx, stop := signal.NotifyContext(context.Background(), ends...)
	context.AfterFunc(ctx, stop)
	os.Exit(run(ctx, os.Args[1:], os.Stdout, os.Stderr))
}

// outliveReader has a command that serves go on when whoever reads what it says has ended, as a
// tee does at Ctrl-C. The signal alone says nothing: any connection that a client has closed raises it.
func outliveReader() {
	signal.Notify(make(chan os.Signal), syscall.SIGPIPE) // nobody receives: what is written is in vain, and that is all
}

// run runs one command line and returns its exit status.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	root := rootCommand()
	root.SetArgs(args)
	root.SetOut(stdout)
	root.SetErr(stderr)
	err := root.ExecuteContext(ctx)
	if err == nil {
		return 0
	}
	fmt.Fprintf(stderr, "weir: %s\n", oneLine(err.Error()))
	var exit *exitError
	if errors.As(err, &exit) {
		return exit.status
	}
	return 1
}

// exitError is an error with an exit status of its own.
type exitError struct {
	status int
	error
}

func (e *exitError) Unwrap() error { return e.error }

// usageErrorf returns the error of a command line that cannot be meant.
func usageErrorf(format string, args ...any) error {
	return &exitError{2, fmt.Errorf(format, args...)}
}

// interruptedf returns the error after Ctrl-C; it tells what goes on without us.
func interruptedf(format string, args ...any) error {
	return &exitError{130, fmt.Errorf("interrupted: "+format, args...)}
}

func rootCommand() *cobra.Command {
	var u user
	root := &cobra.Command{
		Use:   "weir",
		Short: "Load balancing as a service on machines you own",
		Long: `Weir runs load balancers and pools of application servers, on this machine or in a
cloud, behind the API that DigitalOcean's clients speak.`,
		Example: `  sudo weir dev                  # a region on this machine; leave it running
  sudo weir print                # its machines, in another terminal
  sudo weir create -n 3          # three more, up and in the load balancer
  sudo weir delete 1 web-3       # drained and destroyed
  curl http://127.0.0.1:8080/    # the load balancer`,
		SilenceErrors: true,
		SilenceUsage:  true,
		Args:          onlyCommands,
		RunE:          func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	root.SetFlagErrorFunc(flagError)
	root.AddGroup(
		&cobra.Group{ID: "machines", Title: "Machines:"},
		&cobra.Group{ID: "region", Title: "Region and load balancers:"},
		&cobra.Group{ID: "run", Title: "Running Weir:"},
	)
	root.SetHelpCommandGroupID("run")
	root.SetCompletionCommandGroupID("run")
	for group, commands := range map[string][]*cobra.Command{
		"machines": {printCommand(&u), createCommand(&u), deleteCommand(&u), machineCommand(&u), hostCommand(&u)},
		"region":   {statusCommand(&u), topCommand(&u), eventsCommand(&u), logsCommand(&u), auditCommand(&u), lbCommand(&u), poolCommand(&u), applyCommand(&u), generateCommand(&u), reloadCommand(&u), tokenCommand(&u)},
		"run":      {devCommand(), serveCommand(), nodeCommand(&u), installCommand(), pkiCommand(), frontCommand(), versionCommand()},
	} {
		for _, c := range commands {
			c.GroupID = group
			root.AddCommand(c)
		}
	}
	u.flags(root)
	return root
}

// onlyCommands is the check of a command that takes nothing but the name of another.
func onlyCommands(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	return usageErrorf("there is no command %q%s", args[0], meant(cmd, args[0]))
}

// meant returns what somebody may have meant by a command that cmd does not have.
func meant(cmd *cobra.Command, typed string) string {
	cmd.SuggestionsMinimumDistance = 2
	if near := cmd.SuggestionsFor(typed); len(near) > 0 {
		return fmt.Sprintf(", did you mean %s?", strings.Join(near, " or "))
	}
	return fmt.Sprintf("; %s --help lists all", cmd.CommandPath())
}

// flagError returns the error of a flag that cannot be meant, without Go's words.
func flagError(cmd *cobra.Command, err error) error {
	var value *pflag.InvalidValueError
	var missing *pflag.ValueRequiredError
	switch {
	case errors.As(err, &value):
		return usageErrorf("%s is %.40q, want %s; see %s --help", named(value.GetFlag()), value.GetValue(), wanted(value.GetFlag().Value.Type()), cmd.CommandPath())
	case errors.As(err, &missing):
		return usageErrorf("%s has no value; see %s --help", named(missing.GetFlag()), cmd.CommandPath())
	}
	return usageErrorf("%w; see %s --help", err, cmd.CommandPath())
}

// named returns a flag's names: "--count/-n".
func named(f *pflag.Flag) string {
	if f.Shorthand != "" {
		return "--" + f.Name + "/-" + f.Shorthand
	}
	return "--" + f.Name
}

// wanted says what may be the value of a flag of that type.
func wanted(kind string) string {
	switch kind {
	case "int":
		return "a whole number"
	case "duration":
		return "a duration such as 90s or 10m"
	case "bool":
		return "true or false"
	case "format":
		return "json"
	}
	return "a " + kind
}

// arguments returns the check of a command that takes at least least and at most most
// arguments; without most, any number. want says which ones.
func arguments(least, most int, want string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) < least || most >= 0 && len(args) > most {
			return usageErrorf("%s takes %s; see %s --help", cmd.Name(), want, cmd.CommandPath())
		}
		return nil
	}
}

// oneLine returns s, which may come from anywhere, as one line without control characters.
func oneLine(s string) string {
	return strings.Join(strings.FieldsFunc(printable(s), func(r rune) bool { return r == '\n' || r == '\t' }), " ")
}

// printable returns s without what would change the terminal that it is printed on.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' && r != '\n' && r != '\t' || r >= 0x7f && r < 0xa0 {
			return -1
		}
		return r
	}, s)
}
