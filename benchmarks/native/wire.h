/* What the upstream and the load generator share: texts with holes for numbers, the clock, and waiting.

   The rule: nothing here knows of HTTP, and nothing here is fatal but what no run could go on without. */

#ifndef WIRE_H
#define WIRE_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <errno.h>
#include <poll.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <time.h>

static __attribute__((noreturn, format(printf, 1, 2))) void die(const char *why, ...) {
    va_list facts;
    va_start(facts, why);
    vfprintf(stderr, why, facts);
    va_end(facts);
    fprintf(stderr, " (%s)\n", strerror(errno));
    exit(1);
}

static void *grown(void *memory, size_t bytes) {
    void *larger = realloc(memory, bytes);
    if (larger == NULL) die("no memory for %zu bytes", bytes);
    return larger;
}

static int64_t now_ns(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * 1000000000LL + now.tv_nsec;
}

/* A text with holes, written as in printf(3) by who sends it: %010d for the number of a question, %04d for the index of
   a frame, %019d for a stamp. They are told apart by their width, and filled with zeros in front. */
enum { NUMBER = 10, INDEX = 4, STAMP = 19, MOST_HOLES = 8 };

struct text {
    char *bytes;
    size_t length;
    int holes;
    struct {
        size_t at;
        int width;
    } hole[MOST_HOLES];
};

static void put_digits(char *at, int width, int64_t value) {
    while (width-- > 0) {
        at[width] = (char)('0' + value % 10);
        value /= 10;
    }
}

static struct text text_from(const char *format, size_t length) {
    struct text made = {.bytes = grown(NULL, length + MOST_HOLES * STAMP)};
    for (size_t at = 0; at < length;) {
        int width = 0, read = 0;
        if (format[at] != '%') {
            made.bytes[made.length++] = format[at++];
            continue;
        }
        if (sscanf(format + at, "%%0%dd%n", &width, &read) != 1 || read == 0) die("a hole of no known form");
        if (made.holes == MOST_HOLES || width > STAMP) die("a text with too many holes, or too wide a one");
        made.hole[made.holes].at = made.length;
        made.hole[made.holes++].width = width;
        memset(made.bytes + made.length, '0', (size_t)width);
        made.length += (size_t)width;
        at += (size_t)read;
    }
    return made;
}

/* The text with its holes filled, at `out`; its end. */
static char *text_put(const struct text *text, char *out, int64_t number, int64_t index, int64_t stamp) {
    memcpy(out, text->bytes, text->length);
    for (int hole = 0; hole < text->holes; hole++) {
        int width = text->hole[hole].width;
        put_digits(out + text->hole[hole].at, width, width == NUMBER ? number : width == INDEX ? index : stamp);
    }
    return out + text->length;
}

/* What every answer is made of, from the file that `questions.answer_formats` has written: each text after a line with
   its length. */
struct answers {
    struct text plain_head, plain_body, stream_head, frame, end, said;
};

static struct answers answers_from(const char *path) {
    struct answers read;
    struct text *const in_order[] = {&read.plain_head, &read.plain_body, &read.stream_head,
                                     &read.frame,      &read.end,        &read.said};
    FILE *file = fopen(path, "rb");
    if (file == NULL) die("cannot read %s", path);
    for (size_t turn = 0; turn < sizeof in_order / sizeof *in_order; turn++) {
        size_t length = 0;
        if (fscanf(file, "%zu", &length) != 1 || fgetc(file) != '\n') die("%s is not whole", path);
        char *format = grown(NULL, length + 1);
        if (fread(format, 1, length, file) != length) die("%s is not whole", path);
        format[length] = '\0';
        *in_order[turn] = text_from(format, length);
        free(format);
    }
    fclose(file);
    return read;
}

/* Room at the end of what was read or is to be written. */
struct buffer {
    char *bytes;
    size_t used, room;
};

static char *buffer_room(struct buffer *buffer, size_t bytes) {
    if (buffer->room - buffer->used < bytes) {
        buffer->room = 2 * buffer->room + bytes;
        buffer->bytes = grown(buffer->bytes, buffer->room);
    }
    return buffer->bytes + buffer->used;
}

/* Wait for sockets, or until `due_ns`, or somewhat less. */
static int wait_until(int epoll, struct epoll_event *events, int most, int64_t due_ns) {
    static const int64_t FAR_NS = 10000000;
    int64_t left_ns = due_ns - now_ns();
    int ready = epoll_wait(epoll, events, most, left_ns > FAR_NS ? (int)((left_ns - FAR_NS / 2) / 1000000) : 0);
    if (ready == 0 && left_ns > 0 && left_ns <= FAR_NS) {
        /* epoll counts in milliseconds, which would send the frames of many streams in bursts. */
        struct pollfd any = {.fd = epoll, .events = POLLIN};
        struct timespec left = {0, left_ns};
        if (ppoll(&any, 1, &left, NULL) > 0) ready = epoll_wait(epoll, events, most, 0);
    }
    if (ready < 0 && errno != EINTR) die("epoll_wait");
    return ready < 0 ? 0 : ready;
}

/* The kernel may else wake us 50 us late, to save wakings. */
static void wake_punctually(void) { prctl(PR_SET_TIMERSLACK, 1UL, 0UL, 0UL, 0UL); }

#endif
