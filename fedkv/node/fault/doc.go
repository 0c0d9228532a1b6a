// Package fault names the points at which tests let a process die or stop. Without the build tag faults, as in every
// program that is not a test, a point is an empty function; with it, the environment says what happens:
//
//	FEDATTN_FAULT=after-plan,kill,1,/tmp/fired
//
// point, what (kill or stop: SIGKILL or SIGSTOP to the process itself), at which passage of the point, and a file that
// is written just before. A test that finds no such file has tested nothing.
package fault

// The points, in the order in which a contributor passes them in a session.
const (
	BeforeHello    = "before-hello"     // a publisher is connected and has not been heard
	AfterPlan      = "after-plan"       // its plan is here, nothing is computed
	DuringCommit   = "during-commit"    // the participants are frozen, the work is known
	BeforeJoin     = "before-join"      // in lockstep, before a direct link is opened
	MidPrefill     = "mid-prefill"      // inside a layer, before its rows leave
	MidBlock       = "mid-block"        // a block's header is sent, its rows are not
	BetweenLayers  = "between-layers"   // a layer's rows are queued, the next layer has not begun
	BeforeDone     = "before-done"      // everything is computed, blocks may be under way
	AfterLastBlock = "after-last-block" // everything is sent
	InDecode       = "in-decode"        // some time after, while the publisher decodes
)

// Points lists all of them.
var Points = []string{
	BeforeHello, AfterPlan, DuringCommit, BeforeJoin, MidPrefill, MidBlock, BetweenLayers, BeforeDone, AfterLastBlock, InDecode,
}
