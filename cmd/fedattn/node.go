package main

import (
	"bytes"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/rs/zerolog"
	"github.com/urfave/cli/v2"

	"fedattn/fedkv"
	"fedattn/fedkv/node"
	"fedattn/transport"
)

func nodeCommand() *cli.Command {
	return &cli.Command{
		Name:  "node",
		Usage: "hold texts and contribute to other devices' questions until stopped",
		Flags: append(modelFlags(),
			&cli.StringSliceFlag{Name: "doc", Usage: "text `FILE` to contribute, may be given several times"},
			&cli.StringFlag{Name: "listen", Value: ":7843", Usage: "UDP `ADDRESS` to listen on", EnvVars: []string{"FEDATTN_LISTEN"}},
			&cli.StringSliceFlag{Name: "allow", Usage: "`ID` of a device that may ask and gets rows, may be given several times"},
			&cli.BoolFlag{Name: "allow-any", Usage: "every device that reaches this one may ask and gets rows"},
			&cli.StringFlag{Name: "name", Usage: "what this device is called in answers (default: the host's name)", EnvVars: []string{"FEDATTN_NAME"}},
			&cli.IntFlag{Name: "context", Value: 8192, Usage: "longest token stream to take part in"},
			&cli.IntFlag{Name: "max-tokens", Usage: "most tokens to contribute to one question (default: no limit)"},
			&cli.IntFlag{Name: "min-layer", Usage: "keep the rows of layers before this one; costs quality and protects nothing against a peer with the model"},
			&cli.IntFlag{Name: "max-sessions", Value: 1, Usage: "questions to serve at once"},
			&cli.StringFlag{Name: "log-format", Value: "console", Usage: "console or json"},
			configFlag(),
		),
		Action: runNode,
	}
}

func runNode(c *cli.Context) error {
	if err := noArguments(c); err != nil {
		return err
	}
	allow, err := allowed(c)
	if err != nil {
		return err
	}
	log, err := nodeLogger(c)
	if err != nil {
		return err
	}
	docs, err := readDocuments(c.StringSlice("doc"))
	if err != nil {
		return err
	}
	if len(docs) == 0 {
		return usagef("nothing to contribute: name a text with --doc FILE")
	}
	identity, err := loadIdentity(c)
	if err != nil {
		return err
	}
	// the port is taken before the model is loaded: a mistake shows at once
	endpoint, err := transport.Listen(transport.Config{
		Identity: identity, Listen: c.String("listen"), Allow: allow,
		Notify: func(e transport.Event) {
			log.Warn().Str("peer", string(e.Peer)).Str("address", e.Addr).Stringer("kind", e.Kind).Msg(e.Text)
		},
	})
	if err != nil {
		return err
	}
	defer endpoint.Close()
	engine, err := loadEngine(c)
	if err != nil {
		return err
	}
	defer engine.Close()

	source, err := node.NewDocuments(engine, deviceName(c), docs)
	if err != nil {
		return err
	}
	if most := c.Int("context"); source.Tokens() > most {
		return fmt.Errorf("the documents have %d tokens and --context is %d; give fewer, or a larger --context", source.Tokens(), most)
	}
	log.Info().Str("model", engine.Description()).Int("documents", len(docs)).Int("tokens", source.Tokens()).Msg("ready")
	for _, address := range reachable(endpoint.Addr()) {
		fmt.Fprintf(c.App.Writer, "%s@%s\n", identity.ID(), address)
	}
	contributor := node.NewContributor(node.ContributorConfig{
		Engine: engine, Peers: peers{endpoint}, Self: self(engine, deviceName(c), fedkv.RoleContributor),
		ID: string(identity.ID()), Source: source, MaxTokens: c.Int("max-tokens"), MaxContext: c.Int("context"),
		MinLayer: c.Int("min-layer"), Sessions: c.Int("max-sessions"), Log: log,
	})
	return contributor.Serve(c.Context)
}

// allowed turns --allow and --allow-any into the endpoint's question. Without either, only this machine may ask: rows
// go to nobody whom the owner did not name.
func allowed(c *cli.Context) (func(transport.ID) error, error) {
	ids := map[transport.ID]bool{}
	for _, text := range c.StringSlice("allow") {
		id, err := transport.ParseID(text)
		if err != nil {
			return nil, usagef("--allow: %v", err)
		}
		ids[id] = true
	}
	switch {
	case c.Bool("allow-any") && len(ids) > 0:
		return nil, usagef("--allow and --allow-any contradict each other")
	case c.Bool("allow-any"):
		return nil, nil
	case len(ids) == 0 && !isLoopback(c.String("listen")):
		return nil, usagef("nobody may ask: name the asking device with --allow ID (it prints its own with fedattn id), or say --allow-any; " +
			"only a node that listens on 127.0.0.1 needs neither")
	case len(ids) == 0:
		return nil, nil
	}
	return func(id transport.ID) error {
		if ids[id] {
			return nil
		}
		return fedkv.Errorf(fedkv.CodeForbidden, "this device's owner does not allow %s to ask", id)
	}, nil
}

func isLoopback(address string) bool {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return false
	}
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

// reachable lists the addresses under which other devices may find a socket.
func reachable(addr net.Addr) []string {
	udp, ok := addr.(*net.UDPAddr)
	if !ok || !udp.IP.IsUnspecified() {
		return []string{addr.String()}
	}
	var list []string
	interfaces, _ := net.Interfaces()
	for _, i := range interfaces {
		// bridges of container engines lead nowhere from another device
		if i.Flags&net.FlagUp == 0 || i.Flags&net.FlagLoopback != 0 || strings.HasPrefix(i.Name, "docker") ||
			strings.HasPrefix(i.Name, "veth") || strings.HasPrefix(i.Name, "br-") {
			continue
		}
		addresses, _ := i.Addrs()
		for _, a := range addresses {
			if ip, ok := a.(*net.IPNet); ok && ip.IP.IsGlobalUnicast() && ip.IP.To4() != nil {
				list = append(list, net.JoinHostPort(ip.IP.String(), fmt.Sprint(udp.Port)))
			}
		}
	}
	if len(list) == 0 {
		list = append(list, net.JoinHostPort("127.0.0.1", fmt.Sprint(udp.Port)))
	}
	return list
}

func nodeLogger(c *cli.Context) (zerolog.Logger, error) {
	switch c.String("log-format") {
	case "console":
		return newLogger(c, true), nil
	case "json":
		return zerolog.New(c.App.ErrWriter).With().Timestamp().Logger(), nil
	}
	return zerolog.Logger{}, usagef("unknown log format %q; known are console, json", c.String("log-format"))
}

// deviceName is what this device is called in answers.
func deviceName(c *cli.Context) string {
	name := c.String("name")
	if name == "" {
		name, _ = os.Hostname()
	}
	var clean strings.Builder
	for _, r := range name {
		if unicode.IsPrint(r) && clean.Len()+utf8.RuneLen(r) <= fedkv.MaxName {
			clean.WriteRune(r)
		}
	}
	if clean.Len() == 0 {
		return "device"
	}
	return clean.String()
}

// readDocuments reads texts; what is no text is an error that names it.
func readDocuments(paths []string) ([]node.Document, error) {
	var docs []node.Document
	for _, path := range paths {
		b, err := os.ReadFile(path)
		if err != nil {
			return nil, fmt.Errorf("document: %w", err)
		}
		if !utf8.Valid(b) || bytes.ContainsRune(b, 0) {
			return nil, fmt.Errorf("document %s is not UTF-8 text; convert it first", path)
		}
		if len(bytes.TrimSpace(b)) == 0 {
			return nil, fmt.Errorf("document %s is empty", path)
		}
		docs = append(docs, node.Document{Name: filepath.Base(path), Text: string(b)})
	}
	return docs, nil
}
