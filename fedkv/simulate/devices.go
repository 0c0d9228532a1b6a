package simulate

import (
	"math/rand/v2"
	"time"

	"fedattn/fedkv"
)

// Published is what somebody measured of a device with llama.cpp, and where it stands.
type Published struct {
	Kind            string
	Prefill, Decode float64 // tokens a second of TinyLlama 1.1B
	Watts           float64 // of the whole device while it evaluates; 0: nothing was found
	Source          string
}

// Devices are those that sessions are simulated with. Where a source has another model, what was made of it is said.
var Devices = []Published{
	{"Raspberry Pi 4", 10, 3, 0,
		"\"LLaMA Now Goes Faster on CPUs\": TinyLlama 1.1B Q8_0, llama.cpp of 2024-03-26"},
	{"Raspberry Pi 5", 35, 9, 11.9,
		"the same; power: \"Benchmark Raspberry Pi 5 16 GB model (D0 stepping)\", peak with a model of 3B"},
	{"Orin Nano", 700, 44, 25,
		"decoding: \"Jetson Orin: 4.1x gap to llama.cpp\", 32.1 t/s of a model of 1.5B Q4_K_M, scaled by size; " +
			"power: \"Tiny LLM Benchmark: Jetson Orin Nano Super 8GB\", its mode of 25 W; the prefill is an assumption"},
	{"laptop", 194.05, 40.39, 28,
		"\"Benchmark MetaComputing AI PC Framework 13 Mainboard with Cix CP8180\": TinyLlama 1.1B Q4_K_M, 12 threads"},
}

// TinyLlama is the model of those figures: 22 layers, 4 KV heads of 64 elements.
func TinyLlama() (fedkv.Shape, fedkv.ModelSize) {
	var s fedkv.Shape
	for range 22 {
		s.Layers = append(s.Layers, fedkv.LayerShape{K: 256, V: 256, Heads: 32, KVHeads: 4})
	}
	return s, fedkv.ModelSize{Weights: 667 << 20, Width: 2048, FeedForward: 5632, Vocabulary: 32000}
}

// Speed is that of a device with TinyLlama.
func (p Published) Speed() fedkv.Speed {
	shape, size := TinyLlama()
	s := fedkv.Rates(p.Prefill, p.Decode, shape, size)
	s.Watts = p.Watts
	return s
}

// Network is the links of a session. Rates are bytes of rows a second of each device's own link, and Shared what the
// publisher's carries; round trips vary by a fifth.
type Network struct {
	Name   string
	RTT    time.Duration
	Rate   float64
	Shared float64
}

// Networks are kinds of links, after what is usual for them: assumptions, not measurements.
var Networks = []Network{
	{"LAN", 300 * time.Microsecond, 110e6, 110e6},
	{"Wi-Fi", 4 * time.Millisecond, 6e6, 12e6}, // one radio for all
	{"WAN", 40 * time.Millisecond, 2.5e6, 12e6},
	{"satellite", 600 * time.Millisecond, 1.2e6, 6e6},
}

// Draw is a session of so many participants on a network, whose devices and texts follow from a seed: of each kind of the
// list as often as of others, and segments of half to one and a half times tokens. The publisher is a laptop.
func Draw(network Network, kinds []Published, participants, tokens int, seed uint64) Config {
	r := rand.New(rand.NewPCG(seed, 7))
	shape, _ := TinyLlama()
	c := Config{Shape: shape, Prefix: 32, Answer: 128, Publisher: Device{
		Kind: "laptop", Tokens: 48, Speed: Devices[len(Devices)-1].Speed(), Way: fedkv.Way{Up: network.Shared, Down: network.Shared},
	}}
	c.Wire = fedkv.Uniform(fedkv.WireTypes{K: fedkv.Q8_0, V: fedkv.Q4_0}, len(shape.Layers))
	for range participants - 1 {
		kind := kinds[r.IntN(len(kinds))]
		c.Contributors = append(c.Contributors, Device{
			Kind: kind.Kind, Tokens: tokens/2 + r.IntN(tokens+1), Speed: kind.Speed(),
			Way: fedkv.Way{RTT: time.Duration(float64(network.RTT) * (0.8 + 0.4*r.Float64())), Up: network.Rate, Down: network.Rate},
		})
	}
	return c
}

// Trouble lets a share of the contributors disappear within a time, and another share be slower by a factor.
func (c *Config) Trouble(seed uint64, gone float64, within time.Duration, slow, factor float64) {
	r := rand.New(rand.NewPCG(seed, 11))
	for i := range c.Contributors {
		d := &c.Contributors[i]
		if r.Float64() < gone {
			d.Gone = time.Duration(1 + r.Float64()*float64(within))
		}
		if r.Float64() < slow {
			d.Speed = d.Speed.Scaled(1/factor, 1/factor)
		}
	}
}
