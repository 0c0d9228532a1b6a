#include "far-device.h"

#include "ggml-backend-impl.h"
#include "ggml-cpp.h"
#include "ggml.h"

#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <stdexcept>
#include <string>
#include <unordered_map>
#include <vector>

namespace {

constexpr size_t ALIGNMENT = 64;
constexpr size_t MEMORY    = (size_t) 8 << 30; // that the device says it has

far_counts counts;

ggml_backend_buffer_type_t far_buffer_type();

//
// memory
//

// Tensors have addresses in a range that nothing may touch; their bytes are elsewhere.
struct memory {
    char * addresses;
    char * bytes;
    size_t size;
};

const memory & memory_of(const ggml_tensor * t) {
    ggml_backend_buffer_t buffer = t->view_src ? t->view_src->buffer : t->buffer;
    if (!buffer || buffer->buft != far_buffer_type()) {
        GGML_ABORT("the device was given %s, which is not in its memory", t->name);
    }
    return *static_cast<const memory *>(buffer->context);
}

char * bytes_of(const ggml_tensor * t) {
    const memory & m = memory_of(t);
    return m.bytes + ((const char *) t->data - m.addresses);
}

bool of_cache(const ggml_tensor * t) {
    return strncmp(t->name, "cache_", 6) == 0;
}

void buffer_free(ggml_backend_buffer_t buffer) {
    memory * m = static_cast<memory *>(buffer->context);
    munmap(m->addresses, m->size);
    free(m->bytes);
    delete m;
}

void * buffer_base(ggml_backend_buffer_t buffer) {
    return static_cast<memory *>(buffer->context)->addresses;
}

void buffer_memset(ggml_backend_buffer_t /*buffer*/, ggml_tensor * t, uint8_t value, size_t offset, size_t size) {
    memset(bytes_of(t) + offset, value, size);
}

void buffer_set(ggml_backend_buffer_t /*buffer*/, ggml_tensor * t, const void * data, size_t offset, size_t size) {
    counts.rows_written += of_cache(t);
    memcpy(bytes_of(t) + offset, data, size);
}

void buffer_get(ggml_backend_buffer_t /*buffer*/, const ggml_tensor * t, void * data, size_t offset, size_t size) {
    counts.rows_read += of_cache(t);
    memcpy(data, bytes_of(t) + offset, size);
}

void buffer_clear(ggml_backend_buffer_t buffer, uint8_t value) {
    const memory * m = static_cast<memory *>(buffer->context);
    memset(m->bytes, value, m->size);
}

ggml_backend_buffer_t buffer_alloc(ggml_backend_buffer_type_t buft, size_t size) {
    const size_t room      = GGML_PAD(size, ALIGNMENT);
    void *       bytes     = aligned_alloc(ALIGNMENT, room);
    void *       addresses = mmap(nullptr, room, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (!bytes || addresses == MAP_FAILED) {
        free(bytes);
        return nullptr;
    }
    ggml_backend_buffer_i iface = {};
    iface.free_buffer           = buffer_free;
    iface.get_base              = buffer_base;
    iface.memset_tensor         = buffer_memset;
    iface.set_tensor            = buffer_set;
    iface.get_tensor            = buffer_get;
    iface.clear                 = buffer_clear;
    return ggml_backend_buffer_init(buft, iface, new memory{ (char *) addresses, (char *) bytes, room }, size);
}

const char * buffer_type_name(ggml_backend_buffer_type_t /*buft*/) {
    return "far";
}

size_t buffer_type_alignment(ggml_backend_buffer_type_t /*buft*/) {
    return ALIGNMENT;
}

ggml_backend_buffer_type_t far_buffer_type() {
    static ggml_backend_buffer_type type = [] {
        ggml_backend_buffer_type t = {};
        t.iface.get_name           = buffer_type_name;
        t.iface.alloc_buffer       = buffer_alloc;
        t.iface.get_alignment      = buffer_type_alignment;
        t.device                   = far_device();
        return t;
    }();
    return &type;
}

//
// computing
//

// A graph as it was when the device was told to compute it. The caller may reuse its tensors before that happens.
class launch {
public:
    explicit launch(ggml_cgraph * graph) {
        for (int i = 0; i < ggml_graph_n_nodes(graph); ++i) {
            nodes.push_back(keep(ggml_graph_node(graph, i), true));
        }
    }

    void compute(ggml_backend_t cpu) {
        const ggml_init_params params = { ggml_graph_overhead_custom(nodes.size(), false), nullptr, true };
        ggml_context_ptr       ctx{ ggml_init(params) };
        ggml_cgraph *          graph = ggml_new_graph_custom(ctx.get(), nodes.size(), false);
        for (ggml_tensor * node : nodes) {
            ggml_graph_add_node(graph, node);
        }
        if (ggml_backend_graph_compute(cpu, graph) != GGML_STATUS_SUCCESS) {
            GGML_ABORT("the device cannot compute a graph");
        }
        counts.nodes += nodes.size();
    }

private:
    ggml_tensor * keep(const ggml_tensor * t, bool node) {
        std::unique_ptr<ggml_tensor> & kept = tensors[t];
        if (!kept) {
            kept           = std::make_unique<ggml_tensor>(*t);
            kept->data     = bytes_of(t);
            kept->buffer   = nullptr;
            kept->view_src = nullptr;
            std::fill(std::begin(kept->src), std::end(kept->src), nullptr);
        }
        ggml_tensor * out = kept.get();
        for (int i = 0; node && i < GGML_MAX_SRC; ++i) {
            out->src[i] = t->src[i] ? keep(t->src[i], false) : nullptr;
        }
        return out;
    }

    std::unordered_map<const ggml_tensor *, std::unique_ptr<ggml_tensor>> tensors;
    std::vector<ggml_tensor *>                                            nodes;
};

struct stream {
    ggml_backend_ptr    cpu;
    std::vector<launch> launched;
};

const char * backend_name(ggml_backend_t /*backend*/) {
    return "far";
}

void backend_free(ggml_backend_t backend) {
    delete static_cast<stream *>(backend->context);
    delete backend;
}

ggml_status backend_compute(ggml_backend_t backend, ggml_cgraph * graph) {
    static_cast<stream *>(backend->context)->launched.emplace_back(graph);
    return GGML_STATUS_SUCCESS;
}

void backend_synchronize(ggml_backend_t backend) {
    stream * s = static_cast<stream *>(backend->context);
    for (launch & l : s->launched) {
        l.compute(s->cpu.get());
    }
    s->launched.clear();
}

ggml_backend_t device_init(ggml_backend_dev_t dev, const char * /*params*/) {
    auto s = std::make_unique<stream>();
    s->cpu.reset(ggml_backend_init_by_type(GGML_BACKEND_DEVICE_TYPE_CPU, nullptr));
    if (!s->cpu) {
        return nullptr;
    }
    ggml_backend_reg_t reg = ggml_backend_dev_backend_reg(ggml_backend_get_device(s->cpu.get()));
    auto set_n_threads = (ggml_backend_set_n_threads_t) ggml_backend_reg_get_proc_address(reg,
                                                                                          "ggml_backend_set_n_threads");
    if (set_n_threads) {
        set_n_threads(s->cpu.get(), 1);
    }
    static ggml_guid guid = { 0x66, 0x61, 0x72, 0x2d, 0x64, 0x65, 0x76, 0x69, 0x63, 0x65, 0, 0, 0, 0, 0, 1 };

    ggml_backend_i iface = {};
    iface.get_name       = backend_name;
    iface.free           = backend_free;
    iface.synchronize    = backend_synchronize;
    iface.graph_compute  = backend_compute;
    return new ggml_backend{ &guid, iface, dev, s.release() };
}

//
// the device
//

const char * device_name(ggml_backend_dev_t /*dev*/) {
    return "far";
}

const char * device_description(ggml_backend_dev_t /*dev*/) {
    return "memory that the program cannot read";
}

void device_memory(ggml_backend_dev_t /*dev*/, size_t * free, size_t * total) {
    *free  = MEMORY;
    *total = MEMORY;
}

enum ggml_backend_dev_type device_type(ggml_backend_dev_t /*dev*/) {
    return GGML_BACKEND_DEVICE_TYPE_GPU;
}

void device_props(ggml_backend_dev_t dev, ggml_backend_dev_props * props) {
    props->name        = device_name(dev);
    props->description = device_description(dev);
    props->type        = device_type(dev);
    props->caps.async  = true;
    device_memory(dev, &props->memory_free, &props->memory_total);
}

ggml_backend_buffer_type_t device_buffer_type(ggml_backend_dev_t /*dev*/) {
    return far_buffer_type();
}

bool device_supports_op(ggml_backend_dev_t /*dev*/, const ggml_tensor * op) {
    return ggml_backend_dev_supports_op(ggml_backend_dev_by_type(GGML_BACKEND_DEVICE_TYPE_CPU), op);
}

bool device_supports_buft(ggml_backend_dev_t /*dev*/, ggml_backend_buffer_type_t buft) {
    return buft == far_buffer_type();
}

const char * reg_name(ggml_backend_reg_t /*reg*/) {
    return "far";
}

size_t reg_device_count(ggml_backend_reg_t /*reg*/) {
    return 1;
}

ggml_backend_reg_t far_reg();

ggml_backend_dev_t reg_device(ggml_backend_reg_t /*reg*/, size_t /*index*/) {
    static ggml_backend_device device = [] {
        ggml_backend_device d   = {};
        d.iface.get_name        = device_name;
        d.iface.get_description = device_description;
        d.iface.get_memory      = device_memory;
        d.iface.get_type        = device_type;
        d.iface.get_props       = device_props;
        d.iface.init_backend    = device_init;
        d.iface.get_buffer_type = device_buffer_type;
        d.iface.supports_op     = device_supports_op;
        d.iface.supports_buft   = device_supports_buft;
        d.reg                   = far_reg();
        return d;
    }();
    return &device;
}

void * reg_proc_address(ggml_backend_reg_t /*reg*/, const char * /*name*/) {
    return nullptr;
}

ggml_backend_reg_t far_reg() {
    static ggml_backend_reg reg = { GGML_BACKEND_API_VERSION,
                                    { reg_name, reg_device_count, reg_device, reg_proc_address },
                                    nullptr };
    return &reg;
}

} // namespace

ggml_backend_dev_t far_device() {
    return reg_device(far_reg(), 0);
}

far_counts far_counted() {
    return counts;
}

void far_check() {
    const auto fail = [](const char * what) { throw std::runtime_error(std::string("the far device: ") + what); };

    const ggml_init_params params = { 3 * ggml_tensor_overhead() + ggml_graph_overhead_custom(4, false), nullptr,
                                      true };
    ggml_context_ptr       ctx{ ggml_init(params) };
    ggml_tensor *          x     = ggml_new_tensor_1d(ctx.get(), GGML_TYPE_F32, 1);
    ggml_tensor *          y     = ggml_new_tensor_1d(ctx.get(), GGML_TYPE_F32, 1);
    ggml_tensor *          sum   = ggml_add_inplace(ctx.get(), x, y);
    ggml_cgraph *          graph = ggml_new_graph_custom(ctx.get(), 4, false);
    ggml_build_forward_expand(graph, sum);

    ggml_backend_ptr        backend{ ggml_backend_dev_init(far_device(), nullptr) };
    ggml_backend_buffer_ptr buffer{ ggml_backend_alloc_ctx_tensors(ctx.get(), backend.get()) };
    if (!buffer || ggml_backend_buffer_is_host(buffer.get())) {
        fail("its memory counts as the program's");
    }
    const auto read = [&] {
        float value = 0.0f;
        ggml_backend_tensor_get(x, &value, 0, sizeof(value));
        return value;
    };
    const float one = 1.0f;
    ggml_backend_tensor_set(x, &one, 0, sizeof(one));
    ggml_backend_tensor_set(y, &one, 0, sizeof(one));
    ggml_backend_graph_compute_async(backend.get(), graph);
    if (read() != 1.0f) {
        fail("a sum was there before anybody waited for it");
    }
    ggml_backend_synchronize(backend.get());
    if (read() != 2.0f) {
        fail("it does not add");
    }

    const pid_t pid = fork();
    if (pid == 0) {
        signal(SIGSEGV, SIG_DFL);
        const volatile float * there = static_cast<const float *>(x->data);
        _exit(*there > 0.0f ? 0 : 1);
    }
    int status = 0;
    if (pid < 0 || waitpid(pid, &status, 0) != pid || !WIFSIGNALED(status) || WTERMSIG(status) != SIGSEGV) {
        fail("a program that reads its memory goes on");
    }
}
