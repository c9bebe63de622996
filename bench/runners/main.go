// Two comparable runners of migrations, as their authors' libraries, in one program: runners NAME URL DIRECTORY.
package main

import (
	"fmt"
	"io"
	"net/url"
	"os"

	"github.com/amacneil/dbmate/v2/pkg/dbmate"
	_ "github.com/amacneil/dbmate/v2/pkg/driver/postgres"
	"github.com/golang-migrate/migrate/v4"
	_ "github.com/golang-migrate/migrate/v4/database/postgres"
	_ "github.com/golang-migrate/migrate/v4/source/file"
)

func main() {
	if len(os.Args) != 4 {
		fmt.Fprintln(os.Stderr, "usage: runners dbmate|golang-migrate URL DIRECTORY")
		os.Exit(2)
	}
	if err := run(os.Args[1], os.Args[2], os.Args[3]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(name, address, directory string) error {
	switch name {
	case "dbmate":
		parsed, err := url.Parse(address)
		if err != nil {
			return err
		}
		database := dbmate.New(parsed)
		database.MigrationsDir = []string{directory}
		database.AutoDumpSchema = false
		database.Log = io.Discard
		return database.Migrate()
	case "golang-migrate":
		runner, err := migrate.New("file://"+directory, address)
		if err != nil {
			return err
		}
		return runner.Up()
	}
	return fmt.Errorf("%s is not known", name)
}
