/* The Waystation client for C. Written from crates/client-c by
 * `UPDATE_HEADER=1 cargo test -p waystation-client-c header`; link with
 * -lwaystation_client_c. */

#ifndef WAYSTATION_CLIENT_H
#define WAYSTATION_CLIENT_H

#include <stddef.h>
#include <stdint.h>

// Bytes of a host's address, with the zero at its end.
#define WAYSTATION_ADDRESS_LEN 128

// What became of a function.
typedef enum waystation_status {
  // It did what it says.
  WAYSTATION_STATUS_OK = 0,
  // The agent knows no host for the next call, or refuses. Try again later.
  WAYSTATION_STATUS_NO_HOST = 1,
  // The agent cannot be reached or did not answer in time.
  WAYSTATION_STATUS_NO_AGENT = 2,
  // A pointer is null, or a text is no UTF-8.
  WAYSTATION_STATUS_BAD_ARGUMENT = 3,
} waystation_status;

// How a call ended.
typedef enum waystation_end {
  // With a result.
  WAYSTATION_END_OK = 0,
  // The host answered that it failed.
  WAYSTATION_END_FAILED = 1,
  // The host refused for load; nothing was begun.
  WAYSTATION_END_OVERLOADED = 2,
  // Nobody took the call: refused or reset.
  WAYSTATION_END_REFUSED = 3,
  // No answer came in time.
  WAYSTATION_END_TIMED_OUT = 4,
  // The caller gave up; this says nothing about the host.
  WAYSTATION_END_CANCELLED = 5,
} waystation_end;

// Which way a pick went.
typedef enum waystation_source {
  // Shared memory: no system call.
  WAYSTATION_SOURCE_SEGMENT = 0,
  // The agent's Unix socket.
  WAYSTATION_SOURCE_SOCKET = 1,
  // The agent's UDP port, by Lars' protocol.
  WAYSTATION_SOURCE_UDP = 2,
  // No agent: a host that shared memory had when it was lost. The call is
  // counted nowhere.
  WAYSTATION_SOURCE_KEPT = 3,
} waystation_source;

// Picks hosts of one service. Used by one thread at a time.
typedef struct waystation_caller waystation_caller;

// A host for one call. Report its end.
typedef struct waystation_host {
  // Where to call it: `IP:PORT`, with a zero at the end.
  char address[WAYSTATION_ADDRESS_LEN];
  // Which way the pick went: a `waystation_source`.
  int source;
  // Names the pick when it is reported.
  uint64_t pick;
} waystation_host;

// Where a host is.
typedef struct waystation_address {
  // `IP:PORT`, with a zero at the end.
  char text[WAYSTATION_ADDRESS_LEN];
} waystation_address;

// What a reply told of its host's load. With zeros it told nothing.
typedef struct waystation_load {
  // Requests that the host works on.
  uint32_t in_flight;
  // The median time of its recent answers, in microseconds.
  uint32_t latency_us;
} waystation_load;

#ifdef __cplusplus
extern "C" {
#endif // __cplusplus

// The version of this library: a text that is never freed.
const char *waystation_version(void);

// The name of a `waystation_source`: `segment`, `socket`, `udp` or `kept`, and
// `unknown` of another number; never freed.
const char *waystation_source_name(int source);

// A caller for `service`, which the agent at the Unix socket `socket` knows. The
// agent need not be there yet. Null when an argument is null or no UTF-8. Free it
// with `waystation_caller_free`.
//
// # Safety
// Both are texts with a zero at their end.
struct waystation_caller *waystation_caller_new(const char *service, const char *socket);

// The same caller for another thread. Null for null.
//
// # Safety
// `caller` is one of ours, which no other thread uses at the time.
struct waystation_caller *waystation_caller_clone(const struct waystation_caller *caller);

// Asks the agent by Lars' protocol over UDP where it gives neither memory nor its
// Unix socket: the service's module and command, and the first of its three ports,
// 0 for 8888. Picks that have no end yet are forgotten.
//
// # Safety
// `caller` is one of ours, which no other thread uses at the time, or null.
enum waystation_status waystation_caller_use_lars(struct waystation_caller *caller,
                                                  int32_t modid,
                                                  int32_t cmdid,
                                                  uint16_t first_port);

// Picks the host for the next call into `host`. From shared memory this costs
// about 50 ns; else it waits for the agent, for half a second at most, and as long
// again where UDP is asked.
//
// # Safety
// `caller` is one of ours, which no other thread uses at the time, or null; `host`
// may be written, or is null.
enum waystation_status waystation_pick(struct waystation_caller *caller,
                                       struct waystation_host *host);

// As `waystation_pick`, for a call that is about `key`: under the agent's policy
// `maglev` calls of one key go to one host for as long as that is well. It asks the
// agent each time.
//
// # Safety
// As for `waystation_pick`.
enum waystation_status waystation_pick_by(struct waystation_caller *caller,
                                          uint64_t key,
                                          struct waystation_host *host);

// Writes the addresses of all hosts of the service to `addresses`, `room` of them at
// most, whether they may be picked or not, and to `count` how many there are, which
// may be more than there is room for. It waits as a pick does. Cost: O(hosts).
//
// # Safety
// `caller` is one of ours, which no other thread uses at the time, or null; so many
// addresses may be written as there is room for, or `addresses` is null; `count` may
// be written, or is null.
enum waystation_status waystation_get_route(struct waystation_caller *caller,
                                            struct waystation_address *addresses,
                                            size_t room,
                                            size_t *count);

// As `waystation_get_route`, to be called before the first pick: it asks until there
// is a host, three times with pauses of 50 ms. There may still be none.
//
// # Safety
// As for `waystation_get_route`.
enum waystation_status waystation_reg_init(struct waystation_caller *caller,
                                           struct waystation_address *addresses,
                                           size_t room,
                                           size_t *count);

// Tells how the call to `host` ended, a `waystation_end`, after `latency_ns` from its pick, or 0 when
// it was not timed. A pick is reported once; more is ignored.
//
// # Safety
// `caller` is the one that picked, which no other thread uses at the time, or
// null; `host` is what it picked, or null.
enum waystation_status waystation_report(struct waystation_caller *caller,
                                         const struct waystation_host *host,
                                         int end,
                                         uint64_t latency_ns);

// As `waystation_report`, with what the reply told of the host's load, by which the
// agent's policy compares hosts; null when it told nothing.
//
// # Safety
// As for `waystation_report`; `load` may be read, or is null.
enum waystation_status waystation_report_load(struct waystation_caller *caller,
                                              const struct waystation_host *host,
                                              int end,
                                              uint64_t latency_ns,
                                              const struct waystation_load *load);

// Why the last function of this caller failed: a text that is good until the
// next, empty for null.
//
// # Safety
// `caller` is one of ours, which no other thread uses at the time, or null.
const char *waystation_error(const struct waystation_caller *caller);

// Frees a caller. Null is nothing.
//
// # Safety
// `caller` is one of ours, which is not used any more, or null.
void waystation_caller_free(struct waystation_caller *caller);

#ifdef __cplusplus
}  // extern "C"
#endif  // __cplusplus

#endif  /* WAYSTATION_CLIENT_H */
