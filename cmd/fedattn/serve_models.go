package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"strings"

	"github.com/urfave/cli/v2"

	"fedattn/cmd/fedattn/api"
	"fedattn/cmd/fedattn/assistant"
	"fedattn/llama"
)

// maxModels bounds how many models one server has.
const maxModels = 64

// served is a model under its name. It is in memory from the first request for it until another one needs the room.
type served struct {
	name, path string
	engine     *llama.Engine // nil: not in memory
	memory     held
	cfg        assistant.Config
	hangUp     func()
	talk       *assistant.Assistant // its last conversation
	used       int                  // the number of its last request
}

// alsoFlag names further models.
func alsoFlag(category string) cli.Flag {
	return &cli.StringSliceFlag{Name: "also", Usage: "serve this model too, as `NAME=MODEL`, with MODEL as in --model; it is loaded when a request names it, and " +
		"the one that was idle longest leaves when memory is short", Category: category}
}

// alsoServed reads --also: name and model of each, in order, behind the one that the other flags name.
func alsoServed(c *cli.Context) ([]served, error) {
	first := c.String("alias")
	if first == "" {
		first = modelName(c)
	}
	list, seen := []served{{name: first, path: wantedModel(c)}}, map[string]bool{first: true}
	for _, text := range c.StringSlice("also") {
		name, model, _ := strings.Cut(text, "=")
		if name == "" || model == "" || strings.ContainsAny(name, " \t\r\n") {
			return nil, usagef("--also %q: say NAME=MODEL, with the name for clients and a file or a name of fedattn models list", text)
		}
		if seen[name] {
			return nil, usagef("--also %s: another model has this name already; choose a different one", name)
		}
		seen[name] = true
		list = append(list, served{name: name, path: model})
	}
	if len(list) > maxModels {
		return nil, usagef("--also: %d models are named, %d may be", len(list), maxModels)
	}
	return list, nil
}

// locate finds every model's file, so that none is missing, or brought over the internet, in the middle of a request.
func locate(c *cli.Context, models []served) error {
	for i := range models {
		m := &models[i]
		path, err := locateModel(c, m.path)
		if err != nil {
			return fmt.Errorf("%s: %w", m.name, err)
		}
		if _, err := os.Stat(path); err != nil {
			return modelError(path, err)
		}
		m.path = path
	}
	return nil
}

// modelNamed is one of the models that are listed.
func (b *backend) modelNamed(name string) *served {
	for i := range b.models {
		if b.models[i].name == name {
			return &b.models[i]
		}
	}
	return &b.models[0]
}

// load brings a model into memory for the request that runs. Where there is no room for it, those leave that were idle
// longest; if it does not fit even alone, nothing changes but that.
func (b *backend) load(m *served) error {
	b.requests++
	m.used = b.requests
	if m.engine != nil {
		return nil
	}
	for {
		var others held
		var idle *served
		for i := range b.models {
			o := &b.models[i]
			if o.engine == nil {
				continue
			}
			others.weights += o.memory.weights
			others.all += o.memory.all
			if idle == nil || o.used < idle.used {
				idle = o
			}
		}
		err := checkMemory(b.cli, m.path, others)
		if err == nil {
			break
		}
		// whoever leaves for a model that is too large for the whole device leaves for nothing
		if idle == nil || checkMemory(b.cli, m.path, held{}) != nil {
			return err
		}
		if err := b.unload(idle); err != nil {
			return err
		}
	}
	engine, err := loadWhole(b.cli, m.path)
	if err != nil {
		return err
	}
	cfg, hangUp, err := assistantConfig(b.cli, b.party, engine, &wireRecord{})
	if err != nil {
		engine.Close()
		return err
	}
	if need, context, ok := needOf(b.cli, m.path); ok {
		m.memory = held{need.Weights, need.At(context)}
	}
	m.cfg, m.hangUp = cfg, hangUp
	b.mu.Lock()
	m.engine = engine
	b.mu.Unlock()
	return nil
}

// unload ends a model's conversation and frees its memory.
func (b *backend) unload(m *served) error {
	if m.engine == nil {
		return nil
	}
	err := m.forget()
	m.hangUp()
	m.engine.Close()
	b.mu.Lock()
	m.engine = nil
	b.mu.Unlock()
	m.cfg, m.hangUp, m.memory = assistant.Config{}, nil, held{}
	return err
}

// forget ends a model's conversation.
func (m *served) forget() error {
	if m.talk == nil {
		return nil
	}
	err := m.talk.Close()
	m.talk = nil
	return err
}

// Models implements api.Backend.
func (b *backend) Models() []api.Model {
	b.mu.Lock()
	defer b.mu.Unlock()
	var list []api.Model
	for _, m := range b.models {
		list = append(list, api.Model{Name: m.name, Loaded: m.engine != nil})
	}
	return list
}

// notLoaded is the error of a request for a model that cannot be had; the server goes on with the others.
func notLoaded(m *served, err error) error {
	if errors.Is(err, context.Canceled) {
		return err
	}
	return &api.Error{
		Status: http.StatusInternalServerError, Type: "server_error", Code: "model_not_loaded", Param: "model",
		Message: fmt.Sprintf("the model %s cannot be loaded: %s", m.name, engineText(err)),
	}
}
