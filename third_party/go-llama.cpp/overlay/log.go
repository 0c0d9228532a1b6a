package llama

// #include "binding.h"
import "C"

import "sync/atomic"

// LogLevel is a level of llama.cpp's log.
type LogLevel int

// The levels, in ggml.h's numbers.
const (
	LogDebug LogLevel = 1 + iota
	LogInfo
	LogWarn
	LogError
)

var logCallback atomic.Pointer[func(level LogLevel, text string)]

// SetLog sends llama.cpp's log, of all models, from level on to fn. A text is a line or a part of one, with its line
// feed. fn is called from threads of llama.cpp too, and several calls may run at once. With nil the default is back:
// errors go to where llama.cpp's log went before the first New, which is standard error if nobody changed it, and the
// rest is dropped.
func SetLog(level LogLevel, fn func(level LogLevel, text string)) {
	if fn == nil {
		C.binding_log(0)
		logCallback.Store(nil)
		return
	}
	logCallback.Store(&fn)
	C.binding_log(C.int(max(level, LogDebug)))
}

//export bindingLog
func bindingLog(level C.int, text *C.char) {
	if fn := logCallback.Load(); fn != nil {
		(*fn)(LogLevel(level), C.GoString(text))
	}
}
