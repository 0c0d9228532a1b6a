package node_test

import (
	"context"
	"testing"
	"time"

	"fedattn/fedkv"
	"fedattn/fedkv/node"
)

// slow is a link that takes a while for every block.
type slow struct {
	node.Link
	each time.Duration
}

func (l slow) SendBlock(ctx context.Context, h fedkv.BlockHeader, rows []byte) error {
	time.Sleep(l.each)
	return l.Link.SendBlock(ctx, h, rows)
}

// Rows leave while later layers compute: where a block takes less time than a layer, the publisher begins one block's
// transfer after the slowest contributor has computed its last layer, however many layers and contributors there are.
func TestTransferOverlapsTheEvaluation(t *testing.T) {
	const layer, transfer = time.Second, 400 * time.Millisecond
	for name, lengths := range map[string][]int{"one contributor": {7, 3}, "three": {7, 4, 6, 3}} {
		play(t, name, func(t *testing.T) {
			s := newStage(t, "gather", lossy, lengths...)
			for _, h := range s.hosts {
				h.engine.LayerTime, h.config.MicroBatch = layer, 8
				h.wrap = func(l node.Link) node.Link { return slow{l, transfer} }
			}
			s.engine.LayerTime = layer
			s.open()
			began := time.Now()
			session, err := node.Ask(context.Background(), s.question())
			if err != nil {
				t.Fatal(err)
			}
			took := time.Since(began)
			if err := session.Close(); err != nil {
				t.Error(err)
			}
			s.close()
			// the contributors' prefix and segment, the last block, and the publisher's segment; its prefix meanwhile
			layers := time.Duration(s.engine.Model.Layers)
			if want := 2*layers*layer + transfer + layers*layer; took != want {
				t.Errorf("the question's logits are there after %v, want %v", took, want)
			}
		})
	}
}
