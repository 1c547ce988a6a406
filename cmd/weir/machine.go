package main

import "github.com/spf13/cobra"

func machineCommand(u *user) *cobra.Command {
	return noun("machine", "Do something to single machines", machineDrainCommand(u), machineUndrainCommand(u))
}
