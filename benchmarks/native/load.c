/* The load generator: `load ANSWERS` takes orders on standard input and says on standard output what came of them.

   The rule: every byte of every answer is compared, and one that is wrong ends the order.

   An order is a line of NAME=NUMBER, the names those of `struct order`, and then a request, its head and its body,
   `request_bytes` in all, with a hole for the number of the question. */

#include "answer.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>
#include <unistd.h>

enum { MOST_EVENTS = 512, READ_AT_ONCE = 1 << 18, PATIENCE_MS = 60000, DIALLED_AT_ONCE = 32, PAUSE_US = 200 };

struct order {
    int64_t port, connections;
    int64_t first, distinct, stride; /* questions: the number of the first, how many, how far from one to the next */
    int64_t same;                    /* the number whose answer is due to all of them; 0 where each has its own */
    int64_t count, milliseconds;     /* no question is asked after so many, nor after so long; 0 for no bound */
    int64_t frames, gap_us;          /* as in the questions */
    int64_t spread_us;               /* time over which the connections begin, one after the other */
    int64_t hold;                    /* keep the streams once each has its first frame, until the next order */
    int64_t remade;                  /* only the text of the answers is compared */
    int64_t request_bytes;
};

struct times {
    int64_t *ns;
    size_t count, room;
};

struct connection {
    int fd;
    int64_t asked_ns, begins_ns;
    bool asking, waits; /* for an answer; for room to send the rest */
    int frames_came;
    struct buffer out;
    size_t sent;
    struct answer answer;
};

static struct order order;
static struct answers answers;
static struct text request;
static struct connection *connections;
static int64_t asked, busy, with_first_frame, started_ns, deadline_ns;
static int epoll;
static struct times whole, first_byte, frame;
static char wrong[200];

static void note(struct times *times, int64_t ns) {
    if (times->count == times->room) {
        times->room = 2 * times->room + 1024;
        times->ns = grown(times->ns, times->room * sizeof *times->ns);
    }
    times->ns[times->count++] = ns;
}

static void frame_came(void *whose, int64_t sent_ns, int64_t arrived_ns) {
    struct connection *connection = whose;
    note(&frame, arrived_ns - sent_ns);
    if (connection->frames_came++ > 0) return;
    note(&first_byte, arrived_ns - connection->asked_ns);
    with_first_frame++;
}

static bool may_ask(void) {
    return !order.hold ? (!order.count || asked < order.count) && now_ns() < deadline_ns : asked < order.connections;
}

static bool send_on(struct connection *connection) {
    size_t left = connection->out.used - connection->sent;
    ssize_t sent = send(connection->fd, connection->out.bytes + connection->sent, left, MSG_NOSIGNAL | MSG_DONTWAIT);
    if (sent < 0 && errno != EAGAIN) return is_wrong(&connection->answer, "not sent", strerror(errno), SHOWN);
    connection->sent += sent > 0 ? (size_t)sent : 0;
    bool waits = connection->sent < connection->out.used;
    if (waits != connection->waits) {
        connection->waits = waits;
        struct epoll_event wanted = {.events = EPOLLIN | (waits ? EPOLLOUT : 0), .data.ptr = connection};
        epoll_ctl(epoll, EPOLL_CTL_MOD, connection->fd, &wanted);
    }
    return true;
}

static bool ask(struct connection *connection) {
    int64_t turn = asked++ * order.stride, number = order.first + (order.distinct ? turn % order.distinct : turn);
    answer_begins(&connection->answer, order.same ? order.same : number, (int)order.frames, order.gap_us > 0);
    connection->asking = true;
    connection->frames_came = 0;
    connection->sent = connection->out.used = 0;
    text_put(&request, buffer_room(&connection->out, request.length), number, 0, 0);
    connection->out.used = request.length;
    connection->asked_ns = now_ns();
    return send_on(connection);
}

static bool ask_or_rest(struct connection *connection) {
    if (may_ask()) return ask(connection);
    busy--;
    return true;
}

static bool receive(struct connection *connection) {
    static char bytes[READ_AT_ONCE];
    ssize_t got = recv(connection->fd, bytes, sizeof bytes, MSG_DONTWAIT);
    int64_t arrived_ns = now_ns();
    if (got < 0 && errno == EAGAIN) return true;
    if (got <= 0) return is_wrong(&connection->answer, "the connection closed", "", 0);
    if (!connection->asking) return is_wrong(&connection->answer, "bytes after its end", bytes, (size_t)got);
    if (!answer_came(&connection->answer, bytes, (size_t)got, arrived_ns)) return false;
    if (connection->answer.framing != ENDED) return true;
    connection->asking = false;
    note(&whole, arrived_ns - connection->asked_ns);
    return ask_or_rest(connection);
}

static void dial(void) {
    int yes = 1;
    struct sockaddr_in there = {
        .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK), .sin_port = htons((uint16_t)order.port)};
    connections = calloc((size_t)order.connections + 1, sizeof *connections);
    for (int64_t turn = 0; turn < order.connections; turn++) {
        struct connection *connection = &connections[turn];
        connection->fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
        if (connection->fd < 0) die("no socket for connection %lld", (long long)turn);
        /* A SYN that a full backlog drops comes again after a second. */
        if (turn >= DIALLED_AT_ONCE) usleep(PAUSE_US);
        if (connect(connection->fd, (struct sockaddr *)&there, sizeof there) != 0) {
            snprintf(wrong, sizeof wrong, "cannot connect: %s", strerror(errno));
            return;
        }
        setsockopt(connection->fd, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof yes);
        struct answer expected = {
            .all = &answers, .frame_came = frame_came, .whose = connection, .remade = order.remade != 0};
        connection->answer = expected;
        struct epoll_event wanted = {.events = EPOLLIN, .data.ptr = connection};
        epoll_ctl(epoll, EPOLL_CTL_ADD, connection->fd, &wanted);
    }
}

static void hang_up(void) {
    for (int64_t turn = 0; connections != NULL && turn < order.connections; turn++) {
        if (connections[turn].fd > 0) close(connections[turn].fd);
        free(connections[turn].out.bytes);
        free(connections[turn].answer.line.bytes);
        free(connections[turn].answer.due.bytes);
    }
    free(connections);
    connections = NULL;
}

static void fail(const struct connection *connection) {
    if (!*wrong) strcpy(wrong, connection->answer.wrong);
}

static bool goes_on(int64_t last_ns) {
    if (*wrong || (order.hold ? with_first_frame == order.connections : busy == 0)) return false;
    if (now_ns() - last_ns > PATIENCE_MS * 1000000LL) strcpy(wrong, "an answer did not come in time");
    return !*wrong;
}

static int64_t begin_those_due(int64_t begun, int64_t now) {
    for (; begun < order.connections && connections[begun].begins_ns <= now; begun++)
        if (!ask_or_rest(&connections[begun])) fail(&connections[begun]);
    return begun;
}

static void carry_out(void) {
    struct epoll_event events[MOST_EVENTS];
    dial();
    started_ns = now_ns();
    deadline_ns = order.milliseconds ? started_ns + order.milliseconds * 1000000 : INT64_MAX;
    for (int64_t turn = 0; turn < order.connections; turn++)
        connections[turn].begins_ns = started_ns + turn * order.spread_us * 1000 / order.connections;
    busy = order.connections;
    int64_t begun = 0;
    for (int64_t last_ns = started_ns; goes_on(last_ns);) {
        if (begun < order.connections) begun = begin_those_due(begun, now_ns());
        int64_t due_ns = begun < order.connections ? connections[begun].begins_ns : now_ns() + 1000000000;
        int ready = wait_until(epoll, events, MOST_EVENTS, due_ns);
        if (ready) last_ns = now_ns();
        for (int turn = 0; turn < ready && !*wrong; turn++) {
            struct connection *connection = events[turn].data.ptr;
            bool right = !(events[turn].events & EPOLLOUT) || send_on(connection);
            if (right && events[turn].events & ~(uint32_t)EPOLLOUT) right = receive(connection);
            if (!right) fail(connection);
        }
    }
}

static int in_order(const void *one, const void *other) {
    int64_t left = *(const int64_t *)one, right = *(const int64_t *)other;
    return (left > right) - (left < right);
}

static double quantile_us(const struct times *times, double share) {
    size_t at = (size_t)((double)times->count * share);
    return (double)times->ns[at < times->count ? at : times->count - 1] / 1000;
}

static void print_times(const char *what, struct times *times, const char *separator) {
    if (times->count == 0) return;
    qsort(times->ns, times->count, sizeof *times->ns, in_order);
    printf("%s\"%s_p50_us\":%.3f,\"%s_p99_us\":%.3f,\"%s_max_us\":%.3f", separator, what, quantile_us(times, 0.5), what,
           quantile_us(times, 0.99), what, quantile_us(times, 1));
}

static void report(void) {
    double elapsed_s = (double)(now_ns() - started_ns) / 1e9;
    if (*wrong) {
        printf("{\"wrong\":\"%s\"}\n", wrong);
    } else {
        printf("{\"answers\":%lld,\"asked\":%lld,\"elapsed_s\":%.6f,\"times\":{", (long long)whole.count,
               (long long)asked, elapsed_s);
        print_times("whole", &whole, "");
        print_times("first_byte", &first_byte, whole.count ? "," : "");
        print_times("frame", &frame, ",");
        printf("}}\n");
    }
    fflush(stdout);
}

static bool hear_order(void) {
    static const struct { const char *name; int64_t *value; } NAMES[] = {
        {"port", &order.port}, {"connections", &order.connections}, {"first", &order.first},
        {"distinct", &order.distinct}, {"stride", &order.stride}, {"same", &order.same}, {"count", &order.count},
        {"milliseconds", &order.milliseconds}, {"frames", &order.frames}, {"gap_us", &order.gap_us},
        {"spread_us", &order.spread_us}, {"hold", &order.hold}, {"remade", &order.remade},
        {"request_bytes", &order.request_bytes}};
    static char line[1024];
    if (fgets(line, sizeof line, stdin) == NULL) return false;
    hang_up();
    order = (struct order){.connections = 0, .stride = 1};
    for (char *word = strtok(line, " \n"); word != NULL; word = strtok(NULL, " \n")) {
        char *value = strchr(word, '=');
        if (value == NULL) die("not an order: %s", word);
        *value++ = '\0';
        size_t turn = 0, names = sizeof NAMES / sizeof *NAMES;
        while (turn < names && strcmp(NAMES[turn].name, word) != 0) turn++;
        if (turn == names) die("an order has no %s", word);
        *NAMES[turn].value = strtoll(value, NULL, 10);
    }
    char *format = grown(NULL, (size_t)order.request_bytes + 1);
    if (fread(format, 1, (size_t)order.request_bytes, stdin) != (size_t)order.request_bytes) die("half an order");
    free(request.bytes);
    format[order.request_bytes] = '\0';
    request = text_from(format, (size_t)order.request_bytes);
    free(format);
    return true;
}

int main(int count, char **arguments) {
    if (count != 2) die("usage: load ANSWERS");
    answers = answers_from(arguments[1]);
    wake_punctually();
    epoll = epoll_create1(EPOLL_CLOEXEC);
    while (hear_order()) {
        whole.count = first_byte.count = frame.count = 0;
        asked = with_first_frame = 0;
        *wrong = '\0';
        carry_out();
        report();
        if (!order.hold) hang_up();
    }
    return 0;
}
