package main

import (
	"fmt"
	"io"
	"os"
	"path"
	"strings"
	"sync"
	"time"

	"github.com/urfave/cli/v2"
	"github.com/vbauerster/mpb/v8"
	"github.com/vbauerster/mpb/v8/decor"

	"fedattn/models"
	"fedattn/models/hub"
)

func offlineFlag() cli.Flag {
	return &cli.BoolFlag{Name: "offline", Usage: "ask no hub: a model by name has to be here", DisableDefaultText: true,
		EnvVars: []string{"FEDATTN_OFFLINE"}, Category: modelCategory}
}

func pullCommand() *cli.Command {
	return &cli.Command{
		Name:      "pull",
		Usage:     "bring a model by name and print where it is",
		UsageText: "fedattn pull [flags] MODEL   (or fedattn pull --from PEER, without one)",
		Description: "fedattn pull llama-3.2-1b                 a name of fedattn models list\n" +
			"fedattn pull user/repo:Q8_0               user/repo on the hub of FEDATTN_HUB; Q4_K_M without a quantisation\n" +
			"fedattn pull HOST/user/repo               on another hub\n" +
			"fedattn pull --from garden                the model that a node of yours runs\n\n" +
			"The hub has to speak the Hugging Face API; its address, https://HOST, is in FEDATTN_HUB or HF_ENDPOINT, a token for\n" +
			"gated models in HF_TOKEN. Models go to LLAMA_CACHE, HF_HUB_CACHE, HF_HOME/hub, XDG_CACHE_HOME/huggingface/hub or\n" +
			"~/.cache/huggingface/hub, the first that is set, where other programs find them too. What broke off goes on where it\n" +
			"stopped; a file gets its name when its SHA-256 is right. A model that this device's memory cannot hold is refused.",
		Flags: append([]cli.Flag{
			offlineFlag(),
			&cli.IntFlag{Name: "context", Value: 2048, Usage: "hold memory against the model with `N` tokens", Category: modelCategory},
			&cli.BoolFlag{Name: "no-memory-check", Usage: "download what does not fit into the free memory", DisableDefaultText: true, Category: modelCategory},
			&cli.StringFlag{Name: "from", Usage: "bring the model that this `PEER` runs: NAME of a paired one, or ID@HOST:PORT", Category: modelCategory},
			configFlag(),
		}, discoveryFlags("")...),
		Action: runPull,
	}
}

func runPull(c *cli.Context) error {
	args, err := words(c, "model")
	if err != nil {
		return err
	}
	if c.String("from") != "" {
		return pullFrom(c, args)
	}
	if len(args) != 1 {
		return usagef("%d models are named: fedattn pull [flags] MODEL brings one", len(args))
	}
	if err := atLeast(c, 1, "context"); err != nil {
		return err
	}
	ref, ok := models.Named(args[0])
	if !ok {
		return usagef("%q is a file or no name of a model: write user/repo[:quant], or a name of fedattn models list", args[0])
	}
	source, done, err := modelSource(c)
	if err != nil {
		return err
	}
	path, m, err := source.Pull(c.Context, ref)
	done()
	if err != nil {
		return err
	}
	pulled(c, ref, path, m)
	return nil
}

func pulled(c *cli.Context, ref hub.Ref, path string, m hub.Model) {
	fmt.Fprintf(c.App.ErrWriter, "%s: %s, %s, commit %s\n", ref, count(len(m.Files), "file"), bytesText(m.Size()), m.Commit[:12])
	fmt.Fprintln(c.App.Writer, path)
}

// pullFrom brings the model that another device runs, over the connection that questions take. Its hash is that device's
// word; in a session the two compare it.
func pullFrom(c *cli.Context, args []string) error {
	if len(args) > 0 {
		return usagef("--from brings the model that the peer runs: name none")
	}
	if c.Bool("offline") {
		return usagef("--from asks a peer, --offline nobody: leave one out")
	}
	to, err := peerOf(c, "from")
	if err != nil {
		return err
	}
	link, hangUp, err := reachOne(c, to)
	if err != nil {
		return err
	}
	defer hangUp()
	source, done, err := modelSource(c)
	if err != nil {
		return err
	}
	if source.Hub.Dial, err = fetching(c.Context, link); err != nil {
		return err
	}
	source.Hub.Endpoint, source.Hub.Token = "http://"+to.ID.Short(), ""
	names, err := source.Hub.Names(c.Context)
	if gone := link.Err(); err != nil && gone != nil {
		err = gone // which says why
	}
	if err != nil {
		return err
	}
	if len(names) != 1 {
		return fmt.Errorf("%s offers %d models: it should be one", to.ID.Short(), len(names))
	}
	ref, err := hub.ParseRef(names[0])
	if err != nil || !strings.HasPrefix(ref.Repo, hub.PeerUser+"/") {
		return fmt.Errorf("%s offers a model under the name %q, which is a hub's: it does not speak this protocol correctly", to.ID.Short(), names[0])
	}
	path, m, err := source.Pull(c.Context, ref)
	done()
	if err != nil {
		return err
	}
	pulled(c, ref, path, m)
	return nil
}

// modelSource finds models by name as flags and environment say. done ends the progress that it shows on stderr.
func modelSource(c *cli.Context) (s models.Source, done func(), err error) {
	puller, err := hub.New(os.Getenv)
	if err != nil {
		return s, nil, err
	}
	puller.Offline = c.Bool("offline")
	p := newProgress(c.App.ErrWriter)
	puller.Progress = p.update
	return models.Source{
		Hub: puller, Context: c.Int("context"), CheckMemory: !c.Bool("no-memory-check"), DigestCache: cacheDir(),
		Note: func(text string) { fmt.Fprintf(c.App.ErrWriter, "note: %s\n", text) },
	}, p.done, nil
}

// progress shows downloads: bars on a terminal, a line now and then elsewhere.
type progress struct {
	w    io.Writer
	mu   sync.Mutex
	all  *mpb.Progress // nil: no terminal
	bars map[string]*mpb.Bar
	told time.Time
}

// tellEvery is the time between two lines where there is no terminal.
const tellEvery = 10 * time.Second

func newProgress(w io.Writer) *progress {
	p := &progress{w: w, bars: map[string]*mpb.Bar{}, told: time.Now()}
	if onTerminal(w) {
		p.all = mpb.New(mpb.WithOutput(w), mpb.WithWidth(30), mpb.WithRefreshRate(200*time.Millisecond))
	}
	return p
}

func (p *progress) update(file string, done, total int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.all == nil {
		if time.Since(p.told) >= tellEvery || done == total {
			p.told = time.Now()
			fmt.Fprintf(p.w, "%s: %s of %s\n", path.Base(file), bytesText(done), bytesText(total))
		}
		return
	}
	bar := p.bars[file]
	if bar == nil {
		bar = p.all.AddBar(total,
			mpb.PrependDecorators(decor.Name(path.Base(file)+" "), decor.CountersKiloByte("% .1f of % .1f")),
			mpb.AppendDecorators(decor.Percentage(), decor.Name(" "), decor.AverageSpeed(decor.SizeB1000(0), "% .1f"), decor.Name(" "), decor.AverageETA(decor.ET_STYLE_GO)))
		p.bars[file] = bar
	}
	bar.SetCurrent(done)
}

// done leaves the bars as they are.
func (p *progress) done() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.all == nil {
		return
	}
	for _, bar := range p.bars {
		if !bar.Completed() {
			bar.Abort(false)
		}
	}
	p.all.Wait()
}
