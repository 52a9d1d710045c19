/* Makes calls on files below one directory fail, for programs that are started with it in LD_PRELOAD.
 *
 * BARBACK_DISK_FAULTS is "percent seed errno directory calls": so many calls in a hundred of those named ("write,fsync,...")
 * fail with that error when they are about a path below the directory; the file BARBACK_DISK_FAULTS_SEEN grows by a byte
 * with each. The same seed makes the same calls fail, counted
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
#include <sys/syscall.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

static unsigned percent;
static uint64_t seed;
static int error;
static char directory[1024];
static char calls[256];
static uint64_t counted;
static int seen = -1;

__attribute__((constructor)) static void configure(void) {
    const char *said = getenv("BARBACK_DISK_FAULTS");
    unsigned long long number = 0;
    if (said && sscanf(said, "%u %llu %d %1023s %255s", &percent, &number, &error, directory, calls) == 5)
        seed = number;
    else
        percent = 0;
    const char *file = getenv("BARBACK_DISK_FAULTS_SEEN");
    if (percent && file)
        seen = open(file, O_WRONLY | O_APPEND | O_CLOEXEC);
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
    if (seen >= 0)
        (void)!syscall(SYS_write, seen, "x", 1);
    errno = error;
    return 1;
}

static int path_of(int fd, char *path, size_t size) {
    char link[64];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, size - 1);
    path[length < 0 ? 0 : length] = 0;
    return length >= 0;
}

static int fails_at(const char *call, int fd) {
    char path[1024];
    return percent != 0 && path_of(fd, path, sizeof path) && fails(call, path);
}

static int fails_in(const char *call, int fd, const char *name) {
    char path[2048];
    if (percent == 0 || !name || name[0] == '/' || fd == AT_FDCWD)
        return percent != 0 && fails(call, name);
    if (!path_of(fd, path, sizeof path / 2))
        return 0;
    size_t length = strlen(path);
    snprintf(path + length, sizeof path - length, "/%s", name);
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

int openat64(int in, const char *path, int flags, ...) {
    REAL(int, openat64, int, const char *, int, ...);
    va_list rest;
    va_start(rest, flags);
    mode_t mode = va_arg(rest, mode_t);
    va_end(rest);
    return fails_in("open", in, path) ? -1 : real(in, path, flags, mode);
}

int openat(int in, const char *path, int flags, ...) {
    REAL(int, openat, int, const char *, int, ...);
    va_list rest;
    va_start(rest, flags);
    mode_t mode = va_arg(rest, mode_t);
    va_end(rest);
    return fails_in("open", in, path) ? -1 : real(in, path, flags, mode);
}

int mkdirat(int in, const char *path, mode_t mode) {
    REAL(int, mkdirat, int, const char *, mode_t);
    return fails_in("mkdir", in, path) ? -1 : real(in, path, mode);
}

int renameat(int from_in, const char *from, int to_in, const char *to) {
    REAL(int, renameat, int, const char *, int, const char *);
    return fails_in("rename", to_in, to) ? -1 : real(from_in, from, to_in, to);
}

int link(const char *from, const char *to) {
    REAL(int, link, const char *, const char *);
    return fails("link", to) ? -1 : real(from, to);
}

int linkat(int from_in, const char *from, int to_in, const char *to, int flags) {
    REAL(int, linkat, int, const char *, int, const char *, int);
    return fails_in("link", to_in, to) ? -1 : real(from_in, from, to_in, to, flags);
}

int syncfs(int fd) {
    REAL(int, syncfs, int);
    return fails_at("syncfs", fd) ? -1 : real(fd);
}
