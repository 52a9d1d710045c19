/* Makes calls on files below one directory fail, for programs that are started with it in LD_PRELOAD.
 *
 * BARBACK_DISK_FAULTS is "percent seed errno directory calls": so many calls in a hundred of those named ("write,fsync,...")
 * fail with that error when they are about a path below the directory. The same seed makes the same calls fail, counted
 * from the program's start; where it has several threads, their order is chance. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

static unsigned percent;
static uint64_t seed;
static int error;
static char directory[1024];
static char calls[256];
static uint64_t counted;

__attribute__((constructor)) static void configure(void) {
    const char *said = getenv("BARBACK_DISK_FAULTS");
    unsigned long long number = 0;
    if (said && sscanf(said, "%u %llu %d %1023s %255s", &percent, &number, &error, directory, calls) == 5)
        seed = number;
    else
        percent = 0;
}

/* SplitMix64 of the seed and the number of the call. */
static uint64_t drawn(void) {
    uint64_t mixed = seed + 0x9E3779B97F4A7C15ULL * __atomic_add_fetch(&counted, 1, __ATOMIC_RELAXED);
    mixed = (mixed ^ (mixed >> 30)) * 0xBF58476D1CE4E5B9ULL;
    mixed = (mixed ^ (mixed >> 27)) * 0x94D049BB133111EBULL;
    return mixed ^ (mixed >> 31);
}

static int fails(const char *call, const char *path) {
    if (percent == 0 || !path || strncmp(path, directory, strlen(directory)) != 0)
        return 0;
    const char *at = strstr(calls, call);
    if (!at || drawn() % 100 >= percent)
        return 0;
    errno = error;
    return 1;
}

static int fails_at(const char *call, int fd) {
    char link[64], path[1024];
    if (percent == 0)
        return 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (length < 0)
        return 0;
    path[length] = 0;
    return fails(call, path);
}

#define REAL(type, name, ...) \
    static type (*real)(__VA_ARGS__); \
    if (!real) real = (type (*)(__VA_ARGS__))dlsym(RTLD_NEXT, #name)

ssize_t write(int fd, const void *bytes, size_t count) {
    REAL(ssize_t, write, int, const void *, size_t);
    return fails_at("write", fd) ? -1 : real(fd, bytes, count);
}

ssize_t writev(int fd, const struct iovec *pieces, int count) {
    REAL(ssize_t, writev, int, const struct iovec *, int);
    return fails_at("write", fd) ? -1 : real(fd, pieces, count);
}

ssize_t read(int fd, void *bytes, size_t count) {
    REAL(ssize_t, read, int, void *, size_t);
    return fails_at("read", fd) ? -1 : real(fd, bytes, count);
}

ssize_t pread64(int fd, void *bytes, size_t count, off64_t at) {
    REAL(ssize_t, pread64, int, void *, size_t, off64_t);
    return fails_at("read", fd) ? -1 : real(fd, bytes, count, at);
}

int fsync(int fd) {
    REAL(int, fsync, int);
    return fails_at("fsync", fd) ? -1 : real(fd);
}

int fdatasync(int fd) {
    REAL(int, fdatasync, int);
    return fails_at("fsync", fd) ? -1 : real(fd);
}

int rename(const char *from, const char *to) {
    REAL(int, rename, const char *, const char *);
    return fails("rename", to) ? -1 : real(from, to);
}

int mkdir(const char *path, mode_t mode) {
    REAL(int, mkdir, const char *, mode_t);
    return fails("mkdir", path) ? -1 : real(path, mode);
}

int open64(const char *path, int flags, ...) {
    REAL(int, open64, const char *, int, ...);
    va_list rest;
    va_start(rest, flags);
    mode_t mode = va_arg(rest, mode_t);
    va_end(rest);
    return fails("open", path) ? -1 : real(path, flags, mode);
}
