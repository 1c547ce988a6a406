package main

import "github.com/spf13/cobra"

func topCommand(u *user) *cobra.Command { return &cobra.Command{Use: "top"} }
