//go:build !faults || !unix

package fault

// At is where a fault may be injected. Nothing is here.
func At(string) {}

// Later is At some time after.
func Later(string) {}
