package chat

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
)

// maxSaved bounds a file that is loaded.
const maxSaved = 16 << 20

// savedVersion is that of the file's format.
const savedVersion = 1

// saved is a conversation in a file.
type saved struct {
	Version int    `json:"fedattn_chat"`
	Turns   []Turn `json:"turns"`
}

// save writes a conversation, for its owner's eyes only.
func save(path string, turns []Turn) (string, error) {
	if path == "" {
		return "", errors.New("which file? /save FILE")
	}
	b, err := json.MarshalIndent(saved{savedVersion, turns}, "", "  ")
	if err != nil {
		return "", err
	}
	tmp := path + ".new"
	if err := os.WriteFile(tmp, append(b, '\n'), 0o600); err != nil {
		return "", fmt.Errorf("not saved: %w; give another file", err)
	}
	if err := os.Rename(tmp, path); err != nil {
		return "", fmt.Errorf("not saved: %w; give another file", err)
	}
	return fmt.Sprintf("%d turns are in %s", len(turns), path), nil
}

func load(path string) ([]Turn, error) {
	if path == "" {
		return nil, errors.New("which file? /load FILE")
	}
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("there is no file %s; /save FILE writes one", path)
	} else if err != nil {
		return nil, err
	}
	defer f.Close()
	var s saved
	if err := json.NewDecoder(io.LimitReader(f, maxSaved)).Decode(&s); err != nil || s.Version != savedVersion {
		return nil, fmt.Errorf("%s is no conversation of fedattn chat; /save FILE writes one", path)
	}
	return s.Turns, nil
}
