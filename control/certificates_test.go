package control

import (
	"bytes"
	"errors"
	"strings"
	"testing"

	"weir/cloud"
	"weir/secrets"
	"weir/store"
	"weir/weir"
)

// newKeeper returns a control plane that seals with keys, and does nothing by itself.
func newKeeper(t *testing.T, keys ...string) *Control {
	t.Helper()
	sealer, err := secrets.New(keys...)
	if err != nil {
		t.Fatal(err)
	}
	db := store.Memory()
	t.Cleanup(func() { db.Close() })
	return New(Options{Region: "lab", Store: db, Cloud: cloud.NewFake(cloud.FakeOptions{}), Secrets: sealer})
}

func TestPrivateKeyOfACertificateIsNotInTheStore(t *testing.T) {
	c, ctx := newKeeper(t, secrets.NewKey()), t.Context()
	cert, err := c.AddCertificate(ctx, weir.Certificate{Name: "shop"}, []byte("the private key"))
	if err != nil {
		t.Fatal(err)
	}
	row, err := certificates.Get(ctx, c.Store, cert.ID)
	if err != nil || len(row.Sealed) == 0 || bytes.Contains(row.Sealed, []byte("private")) {
		t.Errorf("the row has %q (%v), want the key sealed", row.Sealed, err)
	}
	if got, err := c.Secrets.Open(row.Sealed, sealFor(cert.ID)); err != nil || string(got) != "the private key" {
		t.Errorf("opened it is %q (%v), want the key", got, err)
	}
	c.Secrets = nil
	if _, err := c.AddCertificate(ctx, weir.Certificate{Name: "other"}, []byte("x")); err == nil {
		t.Error("a certificate was kept without a key to seal with")
	}
}

func TestSecretsAreSealedAnewWhenTheKeyIsReplaced(t *testing.T) {
	old, young := secrets.NewKey(), secrets.NewKey()
	c, ctx := newKeeper(t, old), t.Context()
	for _, name := range []string{"a", "b"} {
		if _, err := c.AddCertificate(ctx, weir.Certificate{Name: name}, []byte("key of "+name)); err != nil {
			t.Fatal(err)
		}
	}
	reseal := func(keys ...string) (n int, err error) {
		if c.Secrets, err = secrets.New(keys...); err != nil {
			t.Fatal(err)
		}
		err = c.Store.Update(ctx, func(tx *store.Tx) (err error) {
			n, err = c.resealCertificates(ctx, tx)
			return err
		})
		return n, err
	}
	if _, err := reseal(young); err == nil || !strings.HasPrefix(err.Error(), "certificate a: ") && !strings.HasPrefix(err.Error(), "certificate b: ") {
		t.Errorf("without the old key: %v, want an error that names a certificate", err)
	}
	if n, err := reseal(young, old); n != 2 || err != nil {
		t.Errorf("%d sealed anew (%v), want both", n, err)
	}
	if n, err := reseal(young); n != 0 || err != nil {
		t.Errorf("afterwards without the old key: %d (%v), want nothing to do", n, err)
	}
	all, err := c.Certificates(ctx)
	if err != nil || len(all) != 2 {
		t.Fatalf("%v (%v), want both", all, err)
	}
	for _, cert := range all {
		if key, err := c.Secrets.Open(cert.Sealed, sealFor(cert.ID)); err != nil || string(key) != "key of "+cert.Name {
			t.Errorf("%s: %q (%v), want its key", cert.Name, key, err)
		}
	}
}

func TestCertificateThatALoadBalancerUsesStays(t *testing.T) {
	c, ctx := newKeeper(t, secrets.NewKey()), t.Context()
	cert, err := c.AddCertificate(ctx, weir.Certificate{Name: "shop"}, []byte("x"))
	if err != nil {
		t.Fatal(err)
	}
	lb := weir.LoadBalancer{Name: "shop", Region: "lab", Size: weir.DefaultNodeSize, Algorithm: weir.RoundRobin, Health: weir.DefaultCheck(), Idle: weir.DefaultIdle,
		Rules: []weir.Rule{{Entry: weir.HTTPS, EntryPort: 443, Target: weir.HTTP, TargetPort: 80, Certificate: "another"}}}
	if _, err := c.CreateLoadBalancer(ctx, lb); !errors.Is(err, weir.Invalid) || !strings.Contains(err.Error(), `forwarding_rules[0].certificate_id: there is no certificate "another"`) {
		t.Errorf("with a certificate that is not there: %v, want an Invalid that names it", err)
	}
	lb.Rules[0].Certificate = cert.ID
	if _, err := c.CreateLoadBalancer(weir.WithCaller(ctx, weir.Caller{Team: "red"}), lb); !errors.Is(err, weir.Invalid) {
		t.Errorf("with another team's certificate: %v, want weir.Invalid", err)
	}
	if lb, err = c.CreateLoadBalancer(ctx, lb); err != nil {
		t.Fatal(err)
	}
	if err := c.DeleteCertificate(ctx, cert.ID); !errors.Is(err, weir.Denied) || err.Error() != "Make sure the certificate is not in use before deleting it" {
		t.Errorf("in use: %v, want weir.Denied in the words that clients match", err)
	}
	if err := c.DeleteLoadBalancer(ctx, lb.ID); err != nil {
		t.Fatal(err)
	}
	if err := c.DeleteCertificate(ctx, cert.ID); err != nil {
		t.Errorf("in use no more: %v", err)
	}
	if err := c.DeleteCertificate(ctx, cert.ID); !errors.Is(err, weir.NotFound) {
		t.Errorf("once more: %v, want weir.NotFound", err)
	}
}

func TestTeamsSeeTheirOwnCertificatesAndProjectsAlone(t *testing.T) {
	c, ours := newKeeper(t, secrets.NewKey()), t.Context()
	red := weir.WithCaller(ours, weir.Caller{Team: "red"})
	cert, err := c.AddCertificate(ours, weir.Certificate{Name: "shop"}, []byte("x"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.AddCertificate(red, weir.Certificate{Name: "shop"}, []byte("x")); err != nil {
		t.Errorf("the same name in another team: %v", err)
	}
	if all, err := c.Certificates(red); err != nil || len(all) != 1 || all[0].ID == cert.ID {
		t.Errorf("red has %v (%v), want its own", all, err)
	}
	p, err := c.CreateProject(ours, weir.Project{Name: "web", Purpose: "IoT"})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.CreateProject(red, weir.Project{Name: "web", Purpose: "IoT"}); err != nil {
		t.Errorf("the same name in another team: %v", err)
	}
	first, err := c.Project(ours, "")
	if err != nil {
		t.Fatal(err)
	}
	if theirs, err := c.Project(red, ""); err != nil || theirs.ID == first.ID || !theirs.Default {
		t.Errorf("red's default is %v (%v), want one of its own", theirs, err)
	}
	for what, ask := range map[string]func() error{
		"certificate": func() error { _, err := c.Certificate(red, cert.ID); return err },
		"deleting it": func() error { return c.DeleteCertificate(red, cert.ID) },
		"project":     func() error { _, err := c.Project(red, p.ID); return err },
		"changing it": func() error {
			_, err := c.UpdateProject(red, p.ID, func(*weir.Project) error { return nil })
			return err
		},
		"deleting that":     func() error { return c.DeleteProject(red, p.ID) },
		"its resources":     func() error { _, err := c.ProjectResources(red, p.ID); return err },
		"putting into it":   func() error { _, err := c.AssignResources(red, p.ID, nil); return err },
		"another's default": func() error { _, err := c.Project(red, first.ID); return err },
	} {
		if err := ask(); !errors.Is(err, weir.NotFound) {
			t.Errorf("%s of another team: %v, want weir.NotFound", what, err)
		}
	}
	if _, _, err := c.CreateMachines(ours, []string{"a"}, weir.Template{Region: "lab", Size: weir.DefaultNodeSize, Image: weir.DefaultImage}); err != nil {
		t.Fatal(err)
	}
	if _, err := c.UpdateNetwork(ours, func(n *weir.Network) error { n.Name = "ours"; return nil }); err != nil {
		t.Fatal(err)
	}
	if n, err := c.Network(red); err != nil || n.Name != "default-lab" {
		t.Errorf("red's name for the network is %q (%v), want default-lab still", n.Name, err)
	}
}

func TestWhatIsOlderThanProjectsIsInTheFirst(t *testing.T) {
	c, ctx := newKeeper(t, secrets.NewKey()), t.Context()
	made, _, err := c.CreateMachines(ctx, []string{"a"}, weir.Template{Region: "lab", Size: weir.DefaultNodeSize, Image: weir.DefaultImage})
	if err != nil {
		t.Fatal(err)
	}
	change(t, c, made[0].ID, func(m *weir.Machine) { m.Place = weir.Place{} }) // as in a row of an older Weir
	second, err := c.CreateProject(ctx, weir.Project{Name: "web", Purpose: "IoT"})
	if err != nil {
		t.Fatal(err)
	}
	first, err := c.Project(ctx, "")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.UpdateProject(ctx, second.ID, func(p *weir.Project) error { p.Default = true; return nil }); err != nil {
		t.Fatal(err)
	}
	if in, err := c.ProjectResources(ctx, first.ID); err != nil || len(in) != 1 || !in[0].At.Equal(made[0].Created) {
		t.Errorf("%v (%v), want the machine in the first project since it was made", in, err)
	}
	if err := c.DeleteProject(ctx, first.ID); !errors.Is(err, weir.Conflict) {
		t.Errorf("deleting the first with the machine in it: %v, want weir.Conflict", err)
	}
}
