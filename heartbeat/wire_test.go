package heartbeat

import (
	"bytes"
	"testing"

	"weir/weir"
)

func TestADatagramArrivesAsItWasSent(t *testing.T) {
	s := newSeal([]byte("key"))
	for _, id := range []weir.ID{"1", "0b5e3b9e-9f3f-4e0e-8f0a-3c6a1d4a6f11", weir.ID(bytes.Repeat([]byte("x"), maxID))} {
		for _, want := range []Answer{{}, {Serving: true}, {Holding: true, Revision: -1}, {Serving: true, Revision: 1 << 40, Up: 10_000}} {
			m, ok := s.open(s.append(nil, kindAnswer, 7, want, id))
			if !ok || m.answer != want || m.seq != 7 || string(m.id) != string(id) {
				t.Errorf("answer %+v by %s arrives as %+v, %v", want, id, m, ok)
			}
		}
		m, ok := s.open(s.append(nil, kindBeat, 1<<63, Answer{}, id))
		if !ok || m.kind != kindBeat || m.seq != 1<<63 || string(m.id) != string(id) {
			t.Errorf("beat by %s arrives as %+v, %v", id, m, ok)
		}
	}
}

func TestADatagramThatWasTamperedWithIsNone(t *testing.T) {
	s := newSeal([]byte("key"))
	good := s.append(nil, kindAnswer, 7, Answer{Serving: true, Revision: 812}, "12")
	if _, ok := newSeal([]byte("Key")).open(good); ok {
		t.Error("another key opens it")
	}
	for bit := range len(good) * 8 {
		bad := bytes.Clone(good)
		bad[bit/8] ^= 1 << (bit % 8)
		if _, ok := s.open(bad); ok {
			t.Errorf("it opens with bit %d turned", bit)
		}
	}
	for n := range good {
		if _, ok := s.open(good[:n]); ok {
			t.Errorf("the first %d bytes of it open", n)
		}
	}
	if _, ok := s.open(append(good, 0)); ok {
		t.Error("it opens with a byte too many")
	}
}

func TestAnErrorMustQuoteABeatOfOurs(t *testing.T) {
	s := newSeal([]byte("key"))
	beat := s.append(nil, kindBeat, 7, Answer{}, "12")
	if seq, ok := s.quoted(beat, "12"); !ok || seq != 7 {
		t.Errorf("our beat is number %d, %v; want 7, true", seq, ok)
	}
	for name, quote := range map[string][]byte{
		"nothing":          nil,
		"half":             beat[:len(beat)/2],
		"an answer":        s.append(nil, kindAnswer, 7, Answer{}, "12"),
		"another's beat":   s.append(nil, kindBeat, 7, Answer{}, "13"),
		"another key's":    newSeal([]byte("Key")).append(nil, kindBeat, 7, Answer{}, "12"),
		"a beat and more":  append(bytes.Clone(beat), 0),
		"another protocol": []byte("HTTP/1.1 200 OK\r\n\r\n-------------------"),
	} {
		if _, ok := s.quoted(quote, "12"); ok {
			t.Errorf("an error that quotes %s is believed", name)
		}
	}
}

func TestADatagramIsSeenOnce(t *testing.T) {
	s := newSeal([]byte("key"))
	var seen seen
	for seq := range uint64(2000) {
		d := s.append(nil, kindBeat, seq, Answer{}, "12")
		if seen.again(d) {
			t.Fatalf("beat %d was not seen before", seq)
		}
		if !seen.again(d) {
			t.Fatalf("beat %d was seen before", seq)
		}
		if n := len(seen.codes); n > len(seen.order) {
			t.Fatalf("%d are remembered, want at most %d", n, len(seen.order))
		}
	}
}

func FuzzOpen(f *testing.F) {
	s := newSeal([]byte("key"))
	f.Add(s.append(nil, kindBeat, 7, Answer{}, "12"))
	f.Add(s.append(nil, kindAnswer, 7, Answer{Serving: true, Revision: 812}, "12"))
	f.Fuzz(func(t *testing.T, d []byte) {
		if m, ok := s.open(d); ok {
			if again := s.append(nil, m.kind, m.seq, m.answer, weir.ID(m.id)); !bytes.Equal(again, d) {
				t.Errorf("%x opens as %+v, which is %x", d, m, again)
			}
		}
	})
}
