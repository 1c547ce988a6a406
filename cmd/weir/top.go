package main

import (
	"errors"

	"github.com/spf13/cobra"
)

func topCommand(u *user) *cobra.Command {
	return &cobra.Command{Use: "top", RunE: func(*cobra.Command, []string) error {
		return errors.New("weir top needs a terminal; weir status shows the same once")
	}}
}
