#include "binding_log.h"

#include "binding.h"
#include "llama.h"
#include "log.h"

#include <atomic>
#include <mutex>

namespace binding {

namespace {

std::atomic<int> go_level{ 0 };

// who had the log before us; written once, before our callback is set
ggml_log_callback previous      = nullptr;
void *            previous_data = nullptr;

thread_local log_capture *  capturing  = nullptr;
thread_local ggml_log_level line_level = GGML_LOG_LEVEL_NONE; // of the line that GGML_LOG_LEVEL_CONT continues

void on_log(ggml_log_level level, const char * text, void * /*user_data*/) {
    if (level != GGML_LOG_LEVEL_CONT) {
        line_level = level;
    }
    if (capturing && line_level == GGML_LOG_LEVEL_ERROR) {
        capturing->add(text);
    }
    const int wanted = go_level.load(std::memory_order_relaxed);
    if (wanted != 0) {
        if (line_level >= wanted) {
            bindingLog(line_level, const_cast<char *>(text));
        }
    } else if (line_level == GGML_LOG_LEVEL_ERROR && previous) {
        previous(level, text, previous_data);
    }
}

} // namespace

void log_init() {
    static std::once_flag once;
    std::call_once(once, [] {
        llama_log_get(&previous, &previous_data);
        llama_log_set(on_log, nullptr);
        common_log_set_verbosity_thold(LOG_LEVEL_ERROR); // libcommon has a log of its own
    });
}

void log_to_go(int level) {
    log_init();
    go_level = level;
}

log_capture::log_capture() : outer(capturing) {
    capturing = this;
}

log_capture::~log_capture() {
    capturing = outer;
}

void log_capture::add(const char * text) {
    if (line.empty() || line.back() != '\n') {
        line += text;
    }
}

std::string log_capture::reason() const {
    std::string s = line.substr(0, line.find('\n'));
    // "function: text"; a name has no spaces
    const auto  colon = s.find(": ");
    if (colon != std::string::npos && s.find(' ') > colon) {
        s.erase(0, colon + 2);
    }
    return s;
}

} // namespace binding
