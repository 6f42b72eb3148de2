/* One answer as it arrives: its framing is read, and each byte of its body compared with the one that is due.

   The rule: an answer is right or it has a reason; whoever feeds it decides what becomes of it. */

#ifndef ANSWER_H
#define ANSWER_H

#include "wire.h"

#include <ctype.h>
#include <strings.h>

enum { MOST_HEAD = 1 << 14, SHOWN = 60 };

/* Where the framing is (RFC 9112 sections 4 to 7). */
enum framing { HEAD, COUNTED, CHUNK_SIZE, CHUNK, CHUNK_END, TRAILER, ENDED };

struct answer {
    const struct answers *all;
    void (*frame_came)(void *whose, int64_t sent_ns, int64_t arrived_ns);
    void *whose;
    int64_t number;
    int frames;
    bool stamped; /* its frames carry the time at which they were sent */
    bool remade;  /* by a gateway that keeps the text of an answer, not its bytes */

    enum framing framing;
    struct buffer line; /* the head, or a line of the framing, as far as it has come */
    size_t missing;     /* of the body, or of this chunk */
    int64_t arrived_ns;

    int text;           /* which one is due: a frame, or `frames` for the end; 0 is all of a plain answer */
    struct buffer due;  /* it; and of a remade answer the line that has come so far */
    size_t compared;    /* of `due`; and of a remade answer, of the words of a frame */
    char words[INDEX + 1 + STAMP];
    bool whole;         /* nothing more is due */
    char wrong[200];
};

static bool is_wrong(struct answer *answer, const char *what, const char *bytes, size_t length) {
    int at = snprintf(answer->wrong, sizeof answer->wrong, "question %lld: %s: ", (long long)answer->number, what);
    for (size_t turn = 0; turn < length && turn < SHOWN; turn++)
        answer->wrong[at++] = isprint(bytes[turn]) && !strchr("\"\\", bytes[turn]) ? bytes[turn] : '~';
    answer->wrong[at] = '\0';
    return false;
}

static void next_text(struct answer *answer) {
    const struct text *text = answer->frames == 0              ? &answer->all->plain_body
                              : answer->text < answer->frames ? &answer->all->frame
                                                              : &answer->all->end;
    answer->due.used = answer->compared = 0;
    text_put(text, buffer_room(&answer->due, text->length), answer->number, answer->text, 0);
    answer->due.used = text->length;
}

static void answer_begins(struct answer *answer, int64_t number, int frames, bool stamped) {
    answer->number = number;
    answer->frames = frames;
    answer->stamped = stamped;
    answer->framing = HEAD;
    answer->line.used = answer->due.used = answer->compared = 0;
    answer->text = 0;
    answer->whole = false;
    if (!answer->remade) next_text(answer);
}

/* Stamps cannot be foretold: the digits that came are taken for right. */
static bool take_stamp(struct answer *answer, const char *bytes, size_t length) {
    const struct text *frame = &answer->all->frame;
    size_t begins = frame->hole[frame->holes - 1].at, ends = begins + STAMP;
    for (size_t turn = 0; turn < length; turn++) {
        size_t at = answer->compared + turn;
        if (at < begins || at >= ends) continue;
        if (!isdigit(bytes[turn])) return false;
        answer->due.bytes[at] = bytes[turn];
    }
    return true;
}

static int64_t digits_at(const char *bytes, int width) {
    int64_t value = 0;
    while (width-- > 0) value = 10 * value + (*bytes++ - '0');
    return value;
}

static void text_came(struct answer *answer) {
    const struct text *frame = &answer->all->frame;
    if (answer->text < answer->frames && answer->stamped) {
        int64_t sent_ns = digits_at(answer->due.bytes + frame->hole[frame->holes - 1].at, STAMP);
        answer->frame_came(answer->whose, sent_ns, answer->arrived_ns);
    }
    answer->whole = answer->text++ == answer->frames;
    if (!answer->whole) next_text(answer);
}

/* The words of an answer made anew, in their order, are all that can be compared. Those of a frame are its index and
   its stamp; a gateway may join or cut them, too. */
static bool word_came(struct answer *answer, char letter) {
    char due[INDEX + 1];
    put_digits(due, INDEX, answer->text);
    due[INDEX] = ' ';
    if (answer->compared <= INDEX ? letter != due[answer->compared] : !isdigit(letter))
        return is_wrong(answer, "not the words that were due", &letter, 1);
    answer->words[answer->compared++] = letter;
    if (answer->compared < sizeof answer->words) return true;
    if (answer->stamped)
        answer->frame_came(answer->whose, digits_at(answer->words + INDEX + 1, STAMP), answer->arrived_ns);
    answer->text++;
    answer->compared = 0;
    return true;
}

static bool line_came(struct answer *answer) {
    static const char CONTENT[] = "\"content\":", DONE[] = "data: [DONE]";
    const char *found = memmem(answer->due.bytes, answer->due.used, CONTENT, sizeof CONTENT - 1);
    const char *end = answer->due.bytes + answer->due.used;
    if (answer->due.used >= sizeof DONE - 1 && memcmp(answer->due.bytes, DONE, sizeof DONE - 1) == 0)
        answer->whole = answer->text == answer->frames && answer->compared == 0;
    if (found == NULL) return true;
    for (found += sizeof CONTENT - 1; found < end && *found == ' ';) found++;
    if (found == end || *found++ != '"') return true; /* null */
    for (; found < end && *found != '"'; found++)
        if (!word_came(answer, *found)) return false;
    return true;
}

static bool body_came_remade(struct answer *answer, const char *bytes, size_t length) {
    const struct text *said = &answer->all->said;
    for (size_t turn = 0; turn < length; turn++) {
        *buffer_room(&answer->due, 1) = bytes[turn];
        answer->due.used++;
        if (bytes[turn] != '\n' || !answer->frames) continue;
        if (!line_came(answer)) return false;
        answer->due.used = 0;
    }
    if (!answer->frames)
        answer->whole = memmem(answer->due.bytes, answer->due.used, said->bytes, said->length) != NULL;
    return true;
}

static bool body_came(struct answer *answer, const char *bytes, size_t length) {
    if (answer->remade) return body_came_remade(answer, bytes, length);
    while (length > 0) {
        size_t left = answer->due.used - answer->compared, taken = length < left ? length : left;
        if (answer->whole) return is_wrong(answer, "more than was due", bytes, length);
        if (answer->stamped && answer->text < answer->frames && !take_stamp(answer, bytes, taken))
            return is_wrong(answer, "a frame without its stamp", bytes, taken);
        if (memcmp(answer->due.bytes + answer->compared, bytes, taken) != 0)
            return is_wrong(answer, "the bytes are not those that were due", bytes, taken);
        answer->compared += taken;
        bytes += taken;
        length -= taken;
        if (answer->compared == answer->due.used) text_came(answer);
    }
    return true;
}

static bool head_came(struct answer *answer) {
    static const char OK[] = "HTTP/1.1 200 ";
    char *head = answer->line.bytes;
    if (strncmp(head, OK, sizeof OK - 1) != 0) return is_wrong(answer, "it was answered", head, answer->line.used);
    const char *counted = strcasestr(head, "\r\ncontent-length:");
    const char *coded = strcasestr(head, "\r\ntransfer-encoding: chunked\r\n");
    if (!counted == !coded) return is_wrong(answer, "its length is said twice, or not at all", head, answer->line.used);
    answer->framing = coded ? CHUNK_SIZE : COUNTED;
    if (counted) answer->missing = strtoul(strchr(counted, ':') + 1, NULL, 10);
    if (counted && answer->missing == 0) answer->framing = ENDED;
    return true;
}

/* A line of the framing has come, or all of the head. */
static bool framing_came(struct answer *answer) {
    char *line = answer->line.bytes, *after = line;
    if (answer->framing == HEAD) return head_came(answer);
    if (answer->framing == CHUNK_SIZE) {
        answer->missing = strtoul(line, &after, 16);
        if (after == line || strcmp(after, "\r\n") != 0)
            return is_wrong(answer, "not a chunk", line, answer->line.used);
        answer->framing = answer->missing ? CHUNK : TRAILER;
        return true;
    }
    if (strcmp(line, "\r\n") != 0) return is_wrong(answer, "not the end of a chunk", line, answer->line.used);
    answer->framing = answer->framing == CHUNK_END ? CHUNK_SIZE : ENDED;
    return true;
}

/* The bytes of a head or a line up to its end, or all; how many were taken, or 0 if they are wrong. */
static size_t take_framing(struct answer *answer, const char *bytes, size_t length) {
    for (size_t turn = 0; turn < length; turn++) {
        char *end = buffer_room(&answer->line, 2);
        end[0] = bytes[turn];
        end[1] = '\0';
        answer->line.used++;
        if (answer->line.used > MOST_HEAD) return is_wrong(answer, "a head without an end", bytes, length);
        if (bytes[turn] != '\n') continue;
        if (answer->framing == HEAD && (answer->line.used < 4 || memcmp(end - 3, "\r\n\r\n", 4) != 0)) continue;
        if (!framing_came(answer)) return 0;
        answer->line.used = 0;
        return turn + 1;
    }
    return length;
}

/* False when the answer is wrong, and `wrong` says why; `framing` is ENDED after its last byte. */
static bool answer_came(struct answer *answer, const char *bytes, size_t length, int64_t arrived_ns) {
    answer->arrived_ns = arrived_ns;
    while (length > 0) {
        size_t taken = answer->missing < length ? answer->missing : length;
        if (answer->framing == ENDED) return is_wrong(answer, "bytes after its end", bytes, length);
        if (answer->framing == COUNTED || answer->framing == CHUNK) {
            if (!body_came(answer, bytes, taken)) return false;
            answer->missing -= taken;
            if (answer->missing == 0) answer->framing = answer->framing == COUNTED ? ENDED : CHUNK_END;
        } else {
            taken = take_framing(answer, bytes, length);
            if (taken == 0) return false;
        }
        bytes += taken;
        length -= taken;
    }
    if (answer->framing == ENDED && !answer->whole) return is_wrong(answer, "it ended before its end", "", 0);
    return true;
}

#endif
