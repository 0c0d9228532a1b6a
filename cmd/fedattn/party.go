package main

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/urfave/cli/v2"

	"fedattn/fedkv"
	"fedattn/fedkv/node"
	"fedattn/transport"
)

// exchangeFlags say who takes part, and on which terms.
func exchangeFlags() []cli.Flag {
	const exchange = "Peers and exchange"
	return append(slices.Concat(discoveryFlags(exchange), rowFlags()), []cli.Flag{
		&cli.StringSliceFlag{Name: "peer", Usage: "device to ask: `NAME` of a paired one, all for all of them, or ID@HOST:PORT as its node prints it", Category: exchange},
		&cli.StringSliceFlag{Name: "doc", Usage: "text `FILE` of this device's own", Category: exchange},
		&cli.StringFlag{Name: "schedule", Value: autoPreset, Usage: "`SCHEDULE` of sync layers, see above", Category: exchange},
		&cli.StringFlag{Name: "wire", Usage: "`K/V` rows on the wire: " + wireTypes + "; without it those of --schedule", Category: exchange},
		profileFlag(exchange),
		&cli.StringFlag{Name: "budget", Usage: "receive at most `BYTES` of rows, such as 8MB, with --schedule auto; a chat spends it as if peers had --context tokens",
			Category: exchange},
		&cli.StringFlag{Name: "positions", Usage: "`WHERE` segments are evaluated: canonical, inplace",
			DefaultText: "inplace in lockstep only", Category: exchange},
		&cli.IntFlag{Name: "min-layer", Usage: "exchange no rows before layer `N`; costs quality, protects nothing", Category: exchange},
		localRowsFlag(exchange),
		&cli.IntFlag{Name: "draft-max", Value: 8, Usage: "guess up to `N` tokens of an answer where rows stay home and round trips cost more; 0: none", Category: exchange},
		&cli.DurationFlag{Name: "setup-timeout", Value: 10 * time.Second, Usage: "leave out who is not ready after this `TIME`", Category: exchange},
		&cli.DurationFlag{Name: "timeout", Value: 10 * time.Minute, Usage: "leave out whose rows are not here after this `TIME`", Category: exchange},
		&cli.BoolFlag{Name: "require-all", Usage: "fail rather than answer without somebody", DisableDefaultText: true, Category: exchange},
		&cli.IntFlag{Name: "min-peers", Usage: "fail as soon as there are fewer than `N` peers", DefaultText: "1 at the start, or 0 if there is a --doc", Category: exchange},
	}...)
}

// outputFlags say what is printed beside the answer.
func outputFlags(object string) []cli.Flag {
	const output = "Output"
	return append(logFlags(verboseLog, output), []cli.Flag{
		&cli.BoolFlag{Name: "json", Usage: object, DisableDefaultText: true, Category: output},
		&cli.StringFlag{Name: "record", Usage: "write everything that crosses this device's links to `FILE`, for fedattn inspect", Category: output},
		&cli.BoolFlag{Name: "verbose", Aliases: []string{"v"}, Usage: "a table of the peers and a log of the session on stderr",
			DisableDefaultText: true, Category: output},
	}...)
}

// party is who takes part and on which terms, as far as the command line tells without the model.
type party struct {
	addresses []transport.PeerAddress
	discovery discovery
	docs      []node.Document
	identity  transport.Identity
	localRows fedkv.Selection
	minPeers  int  // throughout; fewer end the session
	somebody  bool // has to take part at first: otherwise there is nothing to answer from
}

func readParty(c *cli.Context) (r party, err error) {
	if err := first(checkModel(c), atLeast(c, 1, "predict", "context"), atLeast(c, 0, "min-layer", "min-peers", "draft-max"), checkSampling(c),
		checkTimes(c), checkRows(c), checkLog(c), checkSetting(c.String("schedule"), c.String("wire"))); err != nil {
		return r, err
	}
	if _, err := readProfile(c); err != nil {
		return r, err
	}
	if budget := c.String("budget"); budget != "" {
		if _, err := parseBytes("budget", budget); err != nil {
			return r, err
		}
		if c.String("schedule") != autoPreset || c.String("wire") != "" {
			return r, usagef("--budget chooses sync layers and wire types: leave out --schedule and --wire")
		}
	}
	if r.localRows, err = localRows(c); err != nil {
		return r, err
	}
	if r.discovery, err = readDiscovery(c); err != nil {
		return r, err
	}
	if r.addresses, err = peerAddresses(c); err != nil {
		return r, err
	}
	if r.docs, err = readDocuments(c.StringSlice("doc")); err != nil {
		return r, err
	}
	r.minPeers = c.Int("min-peers")
	r.somebody = !c.IsSet("min-peers") && len(r.addresses) > 0 && len(r.docs) == 0
	if r.minPeers > len(r.addresses) {
		return r, usagef("--min-peers %d: only %d are named with --peer", r.minPeers, len(r.addresses))
	}
	if r.identity, err = loadIdentity(c); err != nil {
		return r, err
	}
	for _, a := range r.addresses {
		if a.ID == r.identity.ID() {
			return r, usagef("--peer %s is this device itself; to try two devices on one machine, give each a --config of its own", a.ID.Short())
		}
	}
	return r, nil
}

func peerAddresses(c *cli.Context) ([]transport.PeerAddress, error) {
	list, err := namedPeers(c)
	if err != nil {
		return nil, err
	}
	seen := map[transport.ID]bool{}
	for _, a := range list {
		if seen[a.ID] {
			return nil, usagef("--peer %s is named twice: name each device once", a.ID.Short())
		}
		seen[a.ID] = true
	}
	if most := fedkv.MaxParticipants - 1; len(list) > most {
		return nil, usagef("%d peers are named: one question can be asked of %d", len(list), most)
	}
	return list, nil
}

func checkTimes(c *cli.Context) error {
	for _, name := range []string{"setup-timeout", "timeout"} {
		if d := c.Duration(name); d <= 0 || d > fedkv.MaxDeadlineMS*time.Millisecond/2 {
			return usagef("--%s %v: must be more than 0s and at most %v", name, d, fedkv.MaxDeadlineMS*time.Millisecond/2)
		}
	}
	return nil
}

// shareQuestionFlag says who is told the question; value is for those with whom this device is paired.
func shareQuestionFlag(value bool) cli.Flag {
	usage := "tell peers the question, so that those with more texts than fit choose passages by it"
	text := "paired ones, in ask"
	if !value {
		text = "nobody is told in a conversation"
	}
	return &cli.BoolFlag{Name: "share-question", Value: value, Usage: usage, DefaultText: text, Category: "Peers and exchange"}
}

// sharesQuestion reports whether a peer is told the question: by default if it is paired.
func sharesQuestion(c *cli.Context, paired transport.KnownPeers, id transport.ID) bool {
	_, known := paired.ByID(id)
	return c.Bool("share-question") && (known || c.IsSet("share-question"))
}

// network opens this device's end of the links to its peers, whose rows come or stay as the exchange says. Nobody may
// open one to it.
func network(c *cli.Context, r party, x exchange, wire *wireRecord) (contacts []node.Contact, hangUp func(), err error) {
	if len(r.addresses) == 0 {
		return nil, func() {}, nil
	}
	log := sessionLog(c)
	endpoint, err := transport.Listen(transport.Config{
		Identity: r.identity, MaxStaging: memoryShare(),
		Notify: func(e transport.Event) { log.Debug().Str("peer", string(e.Peer)).Stringer("kind", e.Kind).Msg(e.Text) },
		Allow: func(transport.ID) error {
			return fedkv.Errorf(fedkv.CodeForbidden, "this device asks and serves nobody")
		},
	})
	if err != nil {
		return nil, nil, err
	}
	paired, err := knownPeers(c)
	if err != nil {
		return nil, nil, errors.Join(err, endpoint.Close())
	}
	for _, a := range r.addresses {
		reach := peers{Endpoint: endpoint, called: func(transport.ID) string { return a.Name }}
		contacts = append(contacts, node.Contact{Name: a.Name, Home: x.home != 0, ShareQuestion: sharesQuestion(c, paired, a.ID), Dial: func(ctx context.Context) (node.Link, error) {
			return wire.tap(r.discovery.dial(ctx, reach, a))
		}})
	}
	return contacts, func() { _ = endpoint.Close() }, nil
}
