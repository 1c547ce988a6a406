package weir

import (
	"encoding/json"
	"testing"
)

func TestMachinesOfAFormerVersionsPoolAreNotReplaced(t *testing.T) {
	var p Pool
	if err := json.Unmarshal([]byte(`{"id": "p", "template": {"size": "s-1vcpu-1gb"}, "autoscale": {"edition": 2}}`), &p); err != nil {
		t.Fatal(err)
	}
	size := Template{Size: "s-1vcpu-1gb"}
	for edition, stale := range []bool{true, true, false} {
		if m := (Machine{Template: size, Edition: edition}); p.Stale(&m) != stale {
			t.Errorf("a machine of edition %d is stale: %v, want %v", edition, !stale, stale)
		}
	}
	if p.Editions != 2 {
		t.Errorf("%d editions are given, want 2: the next template is another", p.Editions)
	}
	p.Edition = 0 // it went back
	row, err := json.Marshal(p)
	if err != nil {
		t.Fatal(err)
	}
	var read Pool
	if err := json.Unmarshal(row, &read); err != nil || read.Edition != 0 || read.Editions != 2 {
		t.Errorf("read again it has edition %d of %d (%v), want 0 of 2", read.Edition, read.Editions, err)
	}
}
