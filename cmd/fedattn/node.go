package main

import (
	"context"
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"

	"github.com/rs/zerolog"
	"github.com/urfave/cli/v2"

	"fedattn/fedkv"
	"fedattn/fedkv/documents"
	"fedattn/fedkv/node"
	"fedattn/fedkv/node/rowcache"
	"fedattn/transport"
)

func nodeCommand() *cli.Command {
	const sharing = "Sharing"
	return &cli.Command{
		Name:      "node",
		Usage:     "hold texts and contribute to other devices' questions until stopped",
		UsageText: "fedattn node [flags]",
		Description: "fedattn node -m model.gguf --doc garden.txt --allow ID\n\n" +
			"Prints the address under which others ask it, ID@HOST:PORT, one line for each of this device's addresses. The log\n" +
			"on stderr has a line for each question: who asked, how many tokens, layers and bytes went out; never the text.",
		Flags: append(slices.Concat(modelFlags(), policyFlags(sharing), rowFlags(), discoveryFlags(deviceCategory), logFlags("info", deviceCategory)),
			contextFlag("evaluate at most `N` tokens for a question"),
			&cli.StringSliceFlag{Name: "doc", Usage: "text `FILE` to contribute; - is standard input as it comes", Category: sharing},
			docsFlag(sharing),
			&cli.StringSliceFlag{Name: "doc-cmd", Usage: "`COMMAND` of the shell whose output is a document, such as 'journalctl -n 200'", Category: sharing},
			&cli.IntFlag{Name: "tail", Value: documents.TailLines, Usage: "of logs, commands and standard input the last `N` lines", Category: sharing},
			&cli.StringSliceFlag{Name: "allow", Usage: "`ID` of a device that may ask, paired or not, and that could recover the text from the rows it gets", Category: sharing},
			&cli.BoolFlag{Name: "allow-any", Usage: "every device that reaches this one may ask", DisableDefaultText: true, Category: sharing},
			localRowsFlag(sharing),
			&cli.BoolFlag{Name: "no-share-model", Usage: "do not hand the model's file to devices that may ask (fedattn pull --from)",
				DisableDefaultText: true, Category: sharing},
			&cli.IntFlag{Name: "max-queries", Usage: "where rows stay home, answer the queries of at most `N` tokens in a session, each layer counted",
				DefaultText: "no limit", Category: sharing},
			&cli.IntFlag{Name: "max-sessions", Value: 1, Usage: "serve `N` questions at once", Category: sharing},
			drainFlag("questions under way", deviceCategory),
			&cli.StringFlag{Name: "listen", Value: defaultListen, Usage: "UDP `ADDRESS` to listen on; only 127.0.0.1 needs no pairing and no --allow",
				EnvVars: []string{"FEDATTN_LISTEN"}, Category: deviceCategory},
			advertiseFlag(), metricsFlag(),
			nameFlag(), configFlag(), statusFlag(),
		),
		Action: func(c *cli.Context) error {
			err := runNode(c)
			if c.Context.Err() != nil {
				return nil // it was told to stop, and did
			}
			return err
		},
	}
}

func runNode(c *cli.Context) error {
	if err := noArguments(c); err != nil {
		return err
	}
	if err := first(checkModel(c), atLeast(c, 1, "context", "max-sessions", "tail"), atLeast(c, 0, "max-tokens", "max-queries", "min-layer", "tokens-per-day"), checkRows(c), checkDrain(c), checkLog(c)); err != nil {
		return err
	}
	members, err := readMembers(c)
	if err != nil {
		return err
	}
	terms, err := readPolicy(c)
	if err != nil {
		return err
	}
	network, err := readDiscovery(c)
	if err != nil {
		return err
	}
	log := newLogger(c, zerolog.InfoLevel) // sessions are what a node is watched for
	rules, rulesDir, err := readRules(c)
	if err != nil {
		return err
	}
	shared := hasLibrary(c, rules)
	if len(c.StringSlice("doc")) == 0 && !shared {
		return usagef("nothing to contribute: name a text with --doc FILE, or a folder with --docs DIR")
	}
	if readStdin(c) && terms.AsksAnybody() {
		return usagef("--doc - and ask_me_first both read standard input: choose one")
	}
	docs, err := readDocuments(slices.DeleteFunc(slices.Clone(c.StringSlice("doc")), func(path string) bool { return path == "-" }))
	if err != nil {
		return err
	}
	local, err := localRows(c)
	if err != nil {
		return err
	}
	advertised, err := readAdvertised(c)
	if err != nil {
		return err
	}
	identity, err := loadIdentity(c)
	if err != nil {
		return err
	}
	owner, err := newOwner(members, terms, identity, newConsole(c.App.Reader, c.App.ErrWriter), log)
	if err != nil {
		return err
	}
	// the port is taken before the model is loaded: a mistake shows at once
	endpoint, err := transport.Listen(transport.Config{
		Identity: identity, Listen: c.String("listen"), Allow: owner.allow, MaxStaging: memoryShare(),
		Notify: func(e transport.Event) {
			log.Warn().Str("peer", string(e.Peer)).Str("address", e.Addr).Stringer("kind", e.Kind).Msg(e.Text)
		},
	})
	if err != nil {
		return err
	}
	defer endpoint.Close()
	health := newCondition(c, deviceName(c), endpoint.Addr(), log)
	counted, closeMetrics, err := openMetrics(c, health, log)
	if err != nil {
		return err
	}
	defer closeMetrics()
	engine, err := loadEngine(c)
	if err != nil {
		return err
	}
	defer engine.Close()
	most, err := contextSize(c, engine)
	if err != nil {
		return err
	}
	if least := c.Int("min-layer"); c.IsSet("min-layer") && least >= engine.Layers() {
		return usagef("--min-layer %d: the model has layers 0 to %d", least, engine.Layers()-1)
	}

	var library *folders
	var source node.Source
	var holds func(rowcache.Key) bool
	tokens, held := 0, len(docs)
	if shared {
		if library, err = openLibrary(c, engine, rules, docs, log); err != nil {
			return err
		}
		defer library.Close()
		held = len(library.Documents())
		if held == 0 {
			log.Warn().Msg("there is no document yet: questions are refused until there is one")
		}
		if tokens, err = library.size(); err != nil {
			return err
		}
		library.compose(c.Context, most)
		source, holds = library.View(nil, c.Int("max-tokens")), func(k rowcache.Key) bool { return library.Holds(k.IsOf) }
	} else {
		all, err := node.NewDocuments(engine, deviceName(c), docs)
		if err != nil {
			return err
		}
		tokens, source, holds = all.Tokens(), all, all.Has
	}
	for _, limit := range []struct {
		flag string
		most int
	}{{"context", most}, {"max-tokens", c.Int("max-tokens")}} {
		if limit.most > 0 && tokens > limit.most && !shared {
			return fmt.Errorf("the documents have %d tokens, --%s allows %d: give fewer or shorter ones, or change --%s",
				tokens, limit.flag, limit.most, limit.flag)
		}
	}
	rows, closeRows := openRows(c, identity.ID(), func(err error) { log.Warn().Err(err).Msg("computed rows") })
	defer closeRows()
	if rows != nil {
		rows.Retain(holds) // what is not shared any more is withdrawn
	}
	log.Info().Str("model", engine.Description()).Int("documents", held).Int("tokens", tokens).
		Stringer("address", endpoint.Addr()).Msg("ready")
	var lines strings.Builder
	for _, address := range advertised.of(endpoint.Addr()) {
		fmt.Fprintf(&lines, "%s@%s\n", identity.ID(), address)
	}
	// in one piece: whoever reads the first line only (`head -n 1`) does not end the node with the second
	fmt.Fprint(c.App.Writer, lines.String())
	owner.engine, owner.device, owner.docs = engine, deviceName(c), docs
	if library != nil {
		owner.library = library.Library
	}
	var fetched func(context.Context, node.Link)
	if !c.Bool("no-share-model") {
		fetched = shareModel(engine.Path(), log)
	}
	size := modelSize(engine)
	contributor := node.NewContributor(node.ContributorConfig{
		Fetched: fetched,
		Engine:  engine, Model: size, Peers: peers{Endpoint: endpoint, allow: owner.rowsTo}, Owner: owner, Self: self(engine, deviceName(c), fedkv.RoleContributor),
		Signer: identity, Device: transport.DeviceOf, ID: string(identity.ID()), Source: source, MaxContext: most, LocalRows: local, Sessions: c.Int("max-sessions"), Rows: kept(rows), HomeRows: rowMemory, MaxQueries: c.Int("max-queries"), Memory: sessionMemory(c, size),
		OnSession: func(done node.Contribution) {
			owner.keep(done)
			counted.session(done)
		}, Log: log,
	})
	open, leave := context.WithCancel(c.Context) // new questions are welcome
	defer leave()
	finishFirst(c, func() {
		leave()
		drain(c, contributor, log)
	})
	health.ready(open, engine, tokens, contributor.Load)
	go health.keepCool(c.Context, engine, log)
	go owner.watch(c.Context, endpoint, log)
	if library != nil {
		library.contributor, library.rows = contributor, rows
		go library.watch(c.Context, rulesDir)
	}
	network.announce(open, deviceName(c), identity.ID(), endpoint.Addr(), log)
	return contributor.Serve(c.Context)
}

// drain lets the questions under way end, for a while.
func drain(c *cli.Context, contributor *node.Contributor, log zerolog.Logger) {
	most := c.Duration("drain")
	log.Info().Stringer("at_most", most).Msg("told to stop: new questions are refused, those under way may end; a second signal ends at once")
	ctx, cancel := context.WithTimeout(c.Context, most)
	defer cancel()
	if left := contributor.Drain(ctx); left > 0 && c.Context.Err() == nil {
		log.Warn().Int("sessions", left).Msg("the time to end is over: sessions are aborted")
	}
}

func isLoopback(address string) bool {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return false
	}
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

// reachable lists the addresses under which other devices may find a socket: IPv4 where there is any.
func reachable(addr net.Addr) []string {
	udp, ok := addr.(*net.UDPAddr)
	if !ok || len(udp.IP) > 0 && !udp.IP.IsUnspecified() {
		return []string{addr.String()}
	}
	var v4, v6 []string
	interfaces, _ := net.Interfaces()
	for _, i := range interfaces {
		if i.Flags&net.FlagUp == 0 || i.Flags&net.FlagLoopback != 0 || !transport.UsableInterface(i.Name) {
			continue
		}
		addresses, _ := i.Addrs()
		for _, a := range addresses {
			ip, ok := a.(*net.IPNet)
			if !ok || !ip.IP.IsGlobalUnicast() {
				continue
			}
			hostPort := net.JoinHostPort(ip.IP.String(), strconv.Itoa(udp.Port))
			if ip.IP.To4() != nil {
				v4 = append(v4, hostPort)
			} else {
				v6 = append(v6, hostPort)
			}
		}
	}
	switch {
	case len(v4) > 0:
		return v4
	case len(v6) > 0:
		return v6
	}
	return []string{net.JoinHostPort("127.0.0.1", strconv.Itoa(udp.Port))}
}
