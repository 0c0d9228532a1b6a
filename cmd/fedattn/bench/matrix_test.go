package bench

import (
	"slices"
	"testing"

	"fedattn/fedkv"
	"fedattn/transport/shaper"
)

func TestParseList(t *testing.T) {
	for text, want := range map[string][]int{
		"512": {512}, "0": {0}, "512,2048": {512, 2048}, "1-4": {1, 2, 3, 4}, "512-8192*2": {512, 1024, 2048, 4096, 8192},
		"0-10+5,7": {0, 5, 10, 7}, "3-3": {3},
	} {
		if got, err := ParseList(text); err != nil || !slices.Equal(got, want) {
			t.Errorf("%s: %v, %v", text, got, err)
		}
	}
	for _, text := range []string{"", ",", "1,", "x", "-1", "2-1", "1-4*1", "1-4+0", "0-8*2", "1-4^2", "99999999999999999999", "0-100000", "1 2"} {
		if got, err := ParseList(text); err == nil {
			t.Errorf("%q is read as %v", text, got)
		}
	}
}

func exchange(t *testing.T, name string) Exchange {
	t.Helper()
	s, err := fedkv.ParseSchedules(name, 4)
	if err != nil {
		t.Fatal(err)
	}
	return Exchange{Name: name, Schedules: s, Wire: fedkv.Uniform(fedkv.WireTypes{K: fedkv.Q8_0, V: fedkv.Q4_0}, 4)}
}

// names of tests with where they are made.
func names(tests []Test) (list []string) {
	for _, t := range tests {
		list = append(list, t.Name()+"/"+t.Kept+t.where())
	}
	return list
}

func TestMatrix(t *testing.T) {
	slow, err := shaper.ParseLink("100mbit/2ms")
	if err != nil {
		t.Fatal(err)
	}
	m := Matrix{
		Prompts: []int{512, 0}, Generates: []int{128}, Depths: []int{0, 256}, Pairs: [][2]int{{64, 16}},
		FedPrompts: []int{1024, 0}, FedGenerates: []int{32, 0, 8}, Nodes: []int{1, 2},
		Exchanges: []Exchange{exchange(t, "gather"), exchange(t, "lockstep")}, Kept: []string{Warm, Cold}, Links: []shaper.Link{{Name: shaper.Loopback}, slow},
	}
	single := []string{"pp512/, ", "tg128/, ", "pp64+tg16/, ", "pp512 @ d256/, ", "tg128 @ d256/, ", "pp64+tg16 @ d256/, "}
	if got := names(m.single()); !slices.Equal(got, single) {
		t.Errorf("on one device: %q", got)
	}
	var federated []string
	for _, s := range m.sessions() {
		federated = append(federated, names(s.tests())...)
	}
	var want []string
	for _, where := range []string{", gather", ", lockstep", ", gather, loopback", ", gather, 100mbit/2ms", ", lockstep, loopback", ", lockstep, 100mbit/2ms"} {
		want = append(want, "fpp1024/cold"+where, "ftg8 @ d1024/"+where, "ftg32 @ d1024/"+where)
		if where[2] == 'g' { // rows that depend on others are not kept
			want = append(want, "fpp1024/warm"+where)
		}
	}
	if !slices.Equal(federated, want) {
		t.Errorf("federated:\n%q, want\n%q", federated, want)
	}
	// without a cold question, answers are decoded after the warm one
	m.Kept = []string{Warm}
	if got := names(m.sessions()[0].tests()); !slices.Equal(got, []string{"fpp1024/warm, gather", "ftg8 @ d1024/, gather", "ftg32 @ d1024/, gather"}) {
		t.Errorf("warm only: %q", got)
	}
}

func TestCores(t *testing.T) {
	allowed := []int{1, 2, 5, 9, 10}
	c := Assign(allowed, 2, 2)
	if len(c) != 2 || !slices.Equal(c[0], []int{1, 2}) || !slices.Equal(c[1], []int{5, 9}) {
		t.Errorf("%v", c)
	}
	if c.Mask(0) != "0x6" || c.Mask(1) != "0x220" || c.Mask(2) != "0x0" || Cores(nil).Mask(0) != "0x0" {
		t.Errorf("masks %s, %s, %s", c.Mask(0), c.Mask(1), c.Mask(2))
	}
	for _, few := range []Cores{Assign(allowed, 3, 2), Assign(nil, 1, 1), Assign(allowed, 2, 0)} {
		if few != nil || few.of(0) != nil {
			t.Errorf("%v of too few processors", few)
		}
	}
}
