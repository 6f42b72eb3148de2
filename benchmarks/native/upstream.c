/* The upstream of the benchmark: `upstream ANSWERS` prints its port and answers until it is ended.

   The rule: it writes prepared bytes and does as little else as it can, so that it is never what is measured. */

#include "wire.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>
#include <unistd.h>

enum { BACKLOG = 4096, MOST_EVENTS = 512, READ_AT_ONCE = 1 << 16 };
static const double GOLDEN = 0.6180339887; /* its multiples lie evenly in the unit interval, however many there are */

struct connection {
    int fd;
    struct buffer in, out;
    size_t sent;         /* of `out` */
    bool waits;          /* for room to send the rest */
    size_t request_ends; /* in `in`; 0 while its head is not whole */
    /* A paced stream: a frame each gap, stamped when it is written; the first with the head. */
    int64_t number, gap_ns, due_ns;
    int frames, next_frame;
    size_t place; /* in `paced`, from 1; 0 while none is under way */
};

static struct answers answers;
static int epoll;
static int64_t answered, paced_so_far;

/* The paced streams under way, as a heap: the next due comes first, at 1. */
static struct connection **paced;
static size_t paced_count, paced_room;

static void put_at(size_t place, struct connection *stream) {
    paced[place] = stream;
    stream->place = place;
}

static void settle(size_t place) {
    struct connection *stream = paced[place];
    for (; place > 1 && paced[place / 2]->due_ns > stream->due_ns; place /= 2) put_at(place, paced[place / 2]);
    for (size_t child; (child = 2 * place) <= paced_count; place = child) {
        if (child < paced_count && paced[child + 1]->due_ns < paced[child]->due_ns) child++;
        if (paced[child]->due_ns >= stream->due_ns) break;
        put_at(place, paced[child]);
    }
    put_at(place, stream);
}

static void pace(struct connection *stream) {
    if (paced_count + 2 > paced_room) {
        paced_room = 2 * paced_room + 64;
        paced = grown(paced, paced_room * sizeof *paced);
    }
    put_at(++paced_count, stream);
    settle(paced_count);
}

static void no_longer_pace(struct connection *stream) {
    size_t place = stream->place;
    if (place == 0) return;
    stream->place = 0;
    struct connection *last = paced[paced_count--];
    if (last == stream) return;
    put_at(place, last);
    settle(place);
}

static void close_connection(struct connection *connection) {
    no_longer_pace(connection);
    close(connection->fd);
    free(connection->in.bytes);
    free(connection->out.bytes);
    free(connection);
}

/* False when the connection is gone. */
static bool send_on(struct connection *connection) {
    size_t left = connection->out.used - connection->sent;
    ssize_t sent = send(connection->fd, connection->out.bytes + connection->sent, left, MSG_NOSIGNAL);
    if (sent < 0 && errno != EAGAIN) return false;
    connection->sent += sent > 0 ? (size_t)sent : 0;
    bool waits = connection->sent < connection->out.used;
    if (!waits) connection->sent = connection->out.used = 0;
    if (waits != connection->waits) {
        connection->waits = waits;
        struct epoll_event wanted = {.events = EPOLLIN | (waits ? EPOLLOUT : 0), .data.ptr = connection};
        epoll_ctl(epoll, EPOLL_CTL_MOD, connection->fd, &wanted);
    }
    return true;
}

static void add_text(struct buffer *out, const struct text *text, int64_t number) {
    char *at = buffer_room(out, text->length);
    out->used += (size_t)(text_put(text, at, number, 0, 0) - at);
}

/* A chunk of RFC 9112 section 7.1. */
static void add_chunk(struct buffer *out, const struct text *text, int64_t number, int64_t index, int64_t stamp) {
    char *at = buffer_room(out, text->length + 32), *start = at;
    at += sprintf(at, "%zx\r\n", text->length);
    at = text_put(text, at, number, index, stamp);
    out->used += (size_t)(stpcpy(at, "\r\n") - start);
}

static void add_end(struct buffer *out, int64_t number) {
    add_chunk(out, &answers.end, number, 0, 0);
    strcpy(buffer_room(out, 6), "0\r\n\r\n");
    out->used += 5;
}

/* False when the connection is gone. */
static bool send_frame(struct connection *stream) {
    add_chunk(&stream->out, &answers.frame, stream->number, stream->next_frame++, now_ns());
    if (stream->next_frame == stream->frames) {
        add_end(&stream->out, stream->number);
        no_longer_pace(stream);
    } else {
        stream->due_ns += stream->gap_ns;
        settle(stream->place);
    }
    return send_on(stream);
}

static bool begin_paced(struct connection *stream) {
    /* Where in the gap its frames lie, lest those of all streams come in bursts. */
    double phase = ++paced_so_far * GOLDEN;
    phase -= (double)(int64_t)phase;
    stream->due_ns = now_ns() + (int64_t)((phase - 1) * (double)stream->gap_ns);
    stream->next_frame = 0;
    add_text(&stream->out, &answers.stream_head, stream->number);
    pace(stream);
    return send_frame(stream);
}

/* What is asked for stands in the prompt, mostly near its end, whatever a proxy has done to the rest. */
static bool read_question(struct connection *connection, const char *body, size_t length) {
    enum { NEAR = 4096 };
    static const char ASKED[] = "Question ";
    size_t skipped = length > NEAR ? length - NEAR : 0;
    const char *found = memmem(body + skipped, length - skipped, ASKED, sizeof ASKED - 1);
    if (found == NULL) found = memmem(body, length, ASKED, sizeof ASKED - 1);
    long long number, gap_us;
    if (found == NULL || sscanf(found, "Question %10lld, %4d frames, %9lld us apart", &number, &connection->frames,
                                &gap_us) != 3)
        return false;
    connection->number = number;
    connection->gap_ns = gap_us * 1000;
    return true;
}

static void add_line(struct buffer *out, const char *format, ...) __attribute__((format(printf, 2, 3)));
static void add_line(struct buffer *out, const char *format, ...) {
    va_list facts;
    va_start(facts, format);
    out->used += (size_t)vsnprintf(buffer_room(out, 256), 256, format, facts);
    va_end(facts);
}

/* False when the connection is gone. */
static bool answer(struct connection *connection, size_t head, size_t whole) {
    struct buffer *out = &connection->out;
    if (memcmp(connection->in.bytes, "GET ", 4) == 0) {
        char count[32];
        int digits = sprintf(count, "%lld", (long long)answered);
        add_line(out, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", digits, count);
        return send_on(connection);
    }
    if (!read_question(connection, connection->in.bytes + head, whole - head)) {
        add_line(out, "HTTP/1.1 400 Not a question\r\nContent-Length: 0\r\n\r\n");
        return send_on(connection);
    }
    answered++;
    if (connection->frames && connection->gap_ns) return begin_paced(connection);
    if (connection->frames) {
        add_text(out, &answers.stream_head, connection->number);
        for (int index = 0; index < connection->frames; index++)
            add_chunk(out, &answers.frame, connection->number, index, 0);
        add_end(out, connection->number);
    } else {
        add_text(out, &answers.plain_head, connection->number);
        add_text(out, &answers.plain_body, connection->number);
    }
    return send_on(connection);
}

/* The bytes of the body that a head announces. */
static size_t content_length(const char *head, size_t length) {
    static const char NAME[] = "\r\ncontent-length:";
    for (const char *line = head; (line = memchr(line, '\r', length - (size_t)(line - head))) != NULL; line++)
        if (strncasecmp(line, NAME, sizeof NAME - 1) == 0) return strtoul(line + sizeof NAME - 1, NULL, 10);
    return 0;
}

/* False when the connection is gone. */
static bool receive(struct connection *connection) {
    struct buffer *in = &connection->in;
    size_t missing = connection->request_ends > in->used ? connection->request_ends - in->used : 0;
    size_t wanted = missing > READ_AT_ONCE ? missing : READ_AT_ONCE;
    ssize_t got = recv(connection->fd, buffer_room(in, wanted + 1), wanted, 0);
    if (got <= 0) return got < 0 && errno == EAGAIN;
    in->used += (size_t)got;
    in->bytes[in->used] = '\0';
    const char *end = memmem(in->bytes, in->used, "\r\n\r\n", 4);
    if (end == NULL) return true;
    size_t head = (size_t)(end - in->bytes) + 4;
    if (connection->request_ends == 0) connection->request_ends = head + content_length(in->bytes, head);
    if (in->used < connection->request_ends) return true;
    size_t whole = connection->request_ends;
    bool goes_on = answer(connection, head, whole);
    memmove(in->bytes, in->bytes + whole, in->used - whole);
    in->used -= whole;
    connection->request_ends = 0;
    return goes_on;
}

static void accept_from(int listener) {
    int yes = 1, fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
    if (fd < 0) return;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof yes);
    struct connection *connection = grown(NULL, sizeof *connection);
    *connection = (struct connection){.fd = fd};
    struct epoll_event wanted = {.events = EPOLLIN, .data.ptr = connection};
    epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &wanted);
}

static int listening(void) {
    struct sockaddr_in here = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t length = sizeof here;
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0 || bind(fd, (struct sockaddr *)&here, length) || listen(fd, BACKLOG)) die("cannot listen");
    getsockname(fd, (struct sockaddr *)&here, &length);
    struct epoll_event wanted = {.events = EPOLLIN, .data.ptr = NULL};
    epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &wanted);
    printf("%d\n", ntohs(here.sin_port));
    fflush(stdout);
    return fd;
}

static void send_due(void) {
    struct connection *stream = paced[1];
    if (!send_frame(stream)) close_connection(stream);
}

int main(int count, char **arguments) {
    if (count != 2) die("usage: upstream ANSWERS");
    answers = answers_from(arguments[1]);
    wake_punctually();
    epoll = epoll_create1(EPOLL_CLOEXEC);
    int listener = listening();
    struct epoll_event events[MOST_EVENTS];
    for (;;) {
        int64_t due_ns = paced_count ? paced[1]->due_ns : now_ns() + 1000000000;
        int ready = wait_until(epoll, events, MOST_EVENTS, due_ns);
        for (int turn = 0; turn < ready; turn++) {
            struct connection *connection = events[turn].data.ptr;
            if (connection == NULL) {
                accept_from(listener);
                continue;
            }
            bool goes_on = !(events[turn].events & EPOLLOUT) || send_on(connection);
            if (goes_on && events[turn].events & ~(uint32_t)EPOLLOUT) goes_on = receive(connection);
            if (!goes_on) close_connection(connection);
        }
        for (int64_t now = now_ns(); paced_count && paced[1]->due_ns <= now;)
            send_due();
    }
}
