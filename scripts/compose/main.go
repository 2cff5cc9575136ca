// Load a Compose file as `docker compose config` does, and print what it means as JSON.
//
//	compose FILE ENV_FILE…
//
// The loader is the one that `docker compose` is built from: it checks the file against the schema
// of the Compose specification, fills in variables and checks that what is named is there. Every
// profile is on.
package main

import (
	"context"
	"fmt"
	"os"

	"github.com/compose-spec/compose-go/v2/cli"
)

func run(arguments []string) error {
	if len(arguments) == 0 || arguments[0] == "--help" {
		return fmt.Errorf("usage: compose FILE [ENV_FILE…]; prints the project as JSON")
	}
	options, err := cli.NewProjectOptions(
		arguments[:1],
		cli.WithEnvFiles(arguments[1:]...),
		cli.WithDotEnv,
		cli.WithProfiles([]string{"*"}),
		cli.WithResolvedPaths(true),
	)
	if err != nil {
		return err
	}
	project, err := options.LoadProject(context.Background())
	if err != nil {
		return err
	}
	shown, err := project.MarshalJSON()
	if err != nil {
		return err
	}
	fmt.Println(string(shown))
	return nil
}

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "compose:", err)
		os.Exit(1)
	}
}
