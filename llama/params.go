package llama

// ModelParams says how to load a model. The zero value loads it memory-mapped.
type ModelParams struct {
	// Threads that one evaluation uses; 0: one for each physical core that this process may use.
	Threads int
	// GPULayers are evaluated on a GPU, from the last one downwards, with their part of the caches; 0: none.
	GPULayers int
	// MLock keeps the weights from being swapped out.
	MLock bool
	// NoMMap reads the weights into memory instead of mapping the file.
	NoMMap bool

	ropeBase  float32 // instead of the model's, as a build with a mistake would have it; 0: the model's
	ropeScale float32 // factor of positions, as a file for longer contexts has it; 0: the model's
	yarnFrom  uint32  // tokens of the context that YaRN stretches by 1/ropeScale; 0: the model's rule of scaling
}

func (p ModelParams) threads() int {
	if p.Threads > 0 {
		return p.Threads
	}
	return DefaultThreads()
}

// Sampling says how tokens are chosen. The zero value is greedy.
type Sampling struct {
	Seed             uint32
	Temperature      float32 // <= 0: greedy
	TopK             int     // 0: off
	TopP             float32 // 0: off
	MinP             float32 // 0: off
	RepeatLastN      int     // tokens that penalties look back on
	RepeatPenalty    float32 // 0: off
	FrequencyPenalty float32
	PresencePenalty  float32
	Grammar          string // GBNF; empty: none
}

// Chat is one turn of a conversation for a chat template.
type Chat struct {
	Role    string // system, user or assistant
	Content string
}

// Memory is what a Context's caches hold and take.
type Memory struct {
	LocalLayers, SyncLayers int
	LocalCells, SyncCells   int   // cells of each layer
	LocalUsed, SyncUsed     int   // cells in use
	LocalBytes, SyncBytes   int64 // K and V of all layers
}
