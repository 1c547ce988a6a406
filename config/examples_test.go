package config_test

import (
	"testing"

	"weir/config"
	"weir/examples"
)

func TestExampleIsAnAppOfThreeMachinesWithUserData(t *testing.T) {
	app, err := config.LoadFS(examples.FS, "weir.yaml")
	if err != nil {
		t.Fatal(err)
	}
	if err := app.In("local1"); err != nil {
		t.Fatal(err)
	}
	if app.Pool.Count != 3 || len(app.Pool.Template.UserData) == 0 {
		t.Errorf("count %d and %d bytes of user-data, want 3 and some", app.Pool.Count, len(app.Pool.Template.UserData))
	}
	if err := app.Pool.Check("local1"); err != nil {
		t.Error(err)
	}
	if err := app.LoadBalancer.Check("local1"); err != nil {
		t.Error(err)
	}
}
