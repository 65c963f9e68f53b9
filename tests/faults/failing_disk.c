/* Calls that change files below a folder fail now and then, as they do on a disk that is full or broken.
 *
 * Preloaded into a process. FAILING_FOLDER: below which; FAILING_LOG: a record of RECORD bytes a fault; FAILING_SHARE: of
 * calls, in thousandths; FAILING_MOST: faults of all processes together. A write that fails may have written a part first,
 * as the kernel's does: that call returns the part's length, and the next one on that file fails.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

enum { RECORD = 64, FILES = 65536 };
static char cut_short[FILES];
static __thread uint64_t state;

#define REAL(name) \
    static __typeof__(&name) real; \
    if (!real) real = (__typeof__(&name))dlsym(RTLD_NEXT, #name)

static uint64_t next(void) {
    if (!state) {
        struct timespec now;
        clock_gettime(CLOCK_MONOTONIC, &now);
        state = (uint64_t)now.tv_nsec * 2654435761u + (uint64_t)getpid() * 40503u + (uintptr_t)&state + 1;
    }
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return state;
}

static int below(const char *path) {
    const char *folder = getenv("FAILING_FOLDER");
    return folder && path && strncmp(path, folder, strlen(folder)) == 0;
}

static int file_below(int file) {
    char link[64], path[PATH_MAX];
    snprintf(link, sizeof link, "/proc/self/fd/%d", file);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (length <= 0) return 0;
    path[length] = 0;
    return below(path);
}

static int recorded(const char *call, int error) {
    const char *log = getenv("FAILING_LOG"), *most = getenv("FAILING_MOST");
    if (!log || !most) return 0;
    int file = open(log, O_WRONLY | O_APPEND | O_CREAT, 0600);
    if (file < 0) return 0;
    struct stat status;
    int room = fstat(file, &status) == 0 && status.st_size < (off_t)atoi(most) * RECORD;
    if (room) {
        char line[RECORD + 1];
        snprintf(line, sizeof line, "%-10s %-8s %-43d", call, error == EIO ? "EIO" : "ENOSPC", getpid());
        line[RECORD - 1] = '\n';
        static ssize_t (*real)(int, const void *, size_t);
        if (!real) real = (ssize_t(*)(int, const void *, size_t))dlsym(RTLD_NEXT, "write");
        room = real(file, line, RECORD) == RECORD;
    }
    close(file);
    return room;
}

/* Whether this call fails; errno then says how. */
static int fails(const char *call, int can_be_full) {
    const char *share = getenv("FAILING_SHARE");
    if (!share || next() % 1000 >= (uint64_t)atoi(share)) return 0;
    int error = can_be_full && next() % 2 ? ENOSPC : EIO;
    if (!recorded(call, error)) return 0;
    errno = error;
    return 1;
}

ssize_t write(int file, const void *data, size_t size) {
    REAL(write);
    if (!file_below(file)) return real(file, data, size);
    if (file < FILES && cut_short[file]) {
        cut_short[file] = 0;
        errno = ENOSPC;
        return -1;
    }
    if (!fails("write", 1)) return real(file, data, size);
    if (size < 2 || file >= FILES || next() % 2) return -1;
    cut_short[file] = 1;
    return real(file, data, 1 + next() % (size - 1));
}

ssize_t writev(int file, const struct iovec *parts, int count) {
    REAL(writev);
    return file_below(file) && fails("writev", 1) ? -1 : real(file, parts, count);
}

int close(int file) {
    REAL(close);
    if (file >= 0 && file < FILES) cut_short[file] = 0;
    return real(file);
}

int fsync(int file) {
    REAL(fsync);
    return file_below(file) && fails("fsync", 0) ? -1 : real(file);
}

int fdatasync(int file) {
    REAL(fdatasync);
    return file_below(file) && fails("fdatasync", 0) ? -1 : real(file);
}

int ftruncate(int file, off_t length) {
    REAL(ftruncate);
    return file_below(file) && fails("ftruncate", 0) ? -1 : real(file, length);
}

int rename(const char *from, const char *to) {
    REAL(rename);
    return below(to) && fails("rename", 1) ? -1 : real(from, to);
}

int link(const char *from, const char *to) {
    REAL(link);
    return below(to) && fails("link", 1) ? -1 : real(from, to);
}

int mkdir(const char *path, mode_t mode) {
    REAL(mkdir);
    return below(path) && fails("mkdir", 1) ? -1 : real(path, mode);
}

int unlink(const char *path) {
    REAL(unlink);
    return below(path) && fails("unlink", 0) ? -1 : real(path);
}

#define OPENER(name) \
    int name(const char *path, int flags, ...) { \
        REAL(name); \
        mode_t mode = 0; \
        if (flags & (O_CREAT | O_TMPFILE)) { \
            va_list rest; \
            va_start(rest, flags); \
            mode = va_arg(rest, mode_t); \
            va_end(rest); \
        } \
        if (flags & O_CREAT && below(path) && fails("open", 1)) return -1; \
        return real(path, flags, mode); \
    }
OPENER(open)
OPENER(open64)
