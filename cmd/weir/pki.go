package main

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"

	"github.com/spf13/cobra"

	"weir/pki"
	"weir/secrets"
)

func pkiCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "pki",
		Short: "The authority that nodes and members know a control plane by",
		Args:  arguments(0, 0, "no arguments"),
		RunE:  func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(pkiCreateCommand())
	return cmd
}

func pkiCreateCommand() *cobra.Command {
	var dir string
	cmd := &cobra.Command{
		Use:   "create",
		Short: "Make an authority, once, for all members of a control plane",
		Long: `Make the authority that nodes and members know a control plane by, in a directory to be
copied to each member before its first start. Whoever has its key can join as anything:
copy it as you would a root password. Beside it is made secrets.key, which seals the
private keys of certificates in the store, and without which they are lost. One member alone needs none made: weir serve does.`,
		Example: `  weir pki create --pki /var/lib/weir/serve/pki`,
		Args:    arguments(0, 0, "no arguments"),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if dir == "" {
				return usageErrorf("--pki is empty, want a directory")
			}
			key := filepath.Join(dir, secrets.FileName)
			if _, err := pki.Load(dir); !errors.Is(err, fs.ErrNotExist) {
				if err != nil {
					return err
				}
				if _, err := secrets.Load(key); errors.Is(err, fs.ErrNotExist) {
					if _, err := secrets.Open(key); err != nil {
						return err
					}
					fmt.Fprintf(cmd.OutOrStdout(), "the authority in %s stays; %s made, to be copied to the other members\n", dir, key)
					return nil
				}
				return fmt.Errorf("--pki: there is an authority in %s already, and every node knows the control plane by it: it stays", dir)
			}
			ca, err := pki.Open(dir)
			if err != nil {
				return err
			}
			if _, err := secrets.Open(key); err != nil {
				return err
			}
			fmt.Fprintf(cmd.OutOrStdout(), "authority %.16s… made in %s\n", ca.Fingerprint(), dir)
			fmt.Fprintf(cmd.ErrOrStderr(), "copy that directory, which has its key, to the other members of the control plane, and keep a copy where you keep secrets\n")
			return nil
		},
	}
	cmd.Flags().StringVar(&dir, "pki", "/var/lib/weir/serve/pki", "`directory` to make it in")
	return cmd
}
