// What becomes of llama.cpp's log.

#pragma once

#include <string>

namespace binding {

// Takes llama.cpp's log over. Nothing happens when it was done before.
void log_init();

// Sends lines of this ggml_log_level and above to Go; 0: errors only, to where they went before log_init.
void log_to_go(int level);

// While one lives, it keeps the first error line that llama.cpp logs on this thread: the reason of a failure that
// llama.cpp's functions report as NULL or false.
class log_capture {
public:
    log_capture();
    ~log_capture();
    log_capture(const log_capture &)             = delete;
    log_capture & operator=(const log_capture &) = delete;

    // The line without the name of the function that wrote it; empty when there was none.
    std::string reason() const;

    void add(const char * text);

private:
    std::string   line;
    log_capture * outer;
};

} // namespace binding
