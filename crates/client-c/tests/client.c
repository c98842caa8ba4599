/* Run by the tests of this package: ./client SOCKET FIRST_PORT */
#include "waystation_client.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define CHECK(is_so)                                                                   \
    do {                                                                               \
        if (!(is_so)) {                                                                \
            fprintf(stderr, "line %d: not so: %s\n", __LINE__, #is_so);                \
            return 1;                                                                  \
        }                                                                              \
    } while (0)

int main(int count, char **words) {
    CHECK(count == 3);
    CHECK(strlen(waystation_version()) > 0);
    waystation_caller *caller = waystation_caller_new("pay", words[1]);
    CHECK(caller != NULL);
    waystation_host host;
    /* The route first, as programs of Lars ask for it. */
    waystation_address hosts[2];
    size_t known = 0;
    CHECK(waystation_reg_init(caller, hosts, 1, &known) == WAYSTATION_STATUS_OK);
    CHECK(known == 2);
    CHECK(waystation_get_route(caller, hosts, 2, &known) == WAYSTATION_STATUS_OK);
    CHECK(known == 2);
    CHECK(strcmp(hosts[0].text, hosts[1].text) != 0);
    for (int at = 0; at < 2; at++) {
        CHECK(strncmp(hosts[at].text, "127.0.0.1:900", 13) == 0);
    }
    CHECK(waystation_get_route(caller, NULL, 0, &known) == WAYSTATION_STATUS_OK);
    CHECK(waystation_get_route(caller, NULL, 1, &known) == WAYSTATION_STATUS_BAD_ARGUMENT);
    CHECK(waystation_get_route(caller, hosts, 2, NULL) == WAYSTATION_STATUS_BAD_ARGUMENT);
    CHECK(waystation_get_route(NULL, hosts, 2, &known) == WAYSTATION_STATUS_BAD_ARGUMENT);
    int picks = 0;
    const waystation_load load = {7, 900};
    for (int call = 0; call < 1000; call++) {
        CHECK(waystation_pick(caller, &host) == WAYSTATION_STATUS_OK);
        CHECK(host.source == WAYSTATION_SOURCE_SEGMENT);
        CHECK(strncmp(host.address, "127.0.0.1:900", 13) == 0);
        CHECK(waystation_report_load(caller, &host, WAYSTATION_END_OK, 1000, &load) ==
              WAYSTATION_STATUS_OK);
        picks++;
    }
    /* A pick is reported once, and one that never was is none. */
    CHECK(waystation_report(caller, &host, WAYSTATION_END_OK, 0) ==
          WAYSTATION_STATUS_BAD_ARGUMENT);
    CHECK(strlen(waystation_error(caller)) > 0);
    CHECK(waystation_report(caller, &host, 99, 0) == WAYSTATION_STATUS_BAD_ARGUMENT);
    CHECK(strcmp(waystation_source_name(99), "unknown") == 0);
    host.pick = 0;
    CHECK(waystation_report(caller, &host, WAYSTATION_END_OK, 0) ==
          WAYSTATION_STATUS_BAD_ARGUMENT);
    waystation_caller *other = waystation_caller_clone(caller);
    waystation_caller_free(caller);
    CHECK(waystation_pick(other, &host) == WAYSTATION_STATUS_OK);
    CHECK(waystation_report(other, &host, WAYSTATION_END_FAILED, 0) ==
          WAYSTATION_STATUS_OK);
    CHECK(waystation_pick_by(other, 42, &host) == WAYSTATION_STATUS_OK);
    CHECK(host.source == WAYSTATION_SOURCE_SOCKET);
    CHECK(waystation_report(other, &host, WAYSTATION_END_OK, 0) == WAYSTATION_STATUS_OK);
    CHECK(waystation_pick_by(NULL, 42, &host) == WAYSTATION_STATUS_BAD_ARGUMENT);
    waystation_caller_free(other);

    waystation_caller *nobody = waystation_caller_new("nobody", words[1]);
    CHECK(waystation_pick(nobody, &host) == WAYSTATION_STATUS_NO_HOST);
    CHECK(strstr(waystation_error(nobody), "nobody") != NULL);
    CHECK(waystation_get_route(nobody, hosts, 2, &known) == WAYSTATION_STATUS_NO_HOST);
    waystation_caller_free(nobody);

    /* Without an agent's socket: by UDP, as callers of Lars do. */
    waystation_caller *lars = waystation_caller_new("pay", "/nonexistent/agent.sock");
    CHECK(waystation_pick(lars, &host) == WAYSTATION_STATUS_NO_AGENT);
    CHECK(waystation_reg_init(lars, hosts, 2, &known) == WAYSTATION_STATUS_NO_AGENT);
    CHECK(waystation_caller_use_lars(lars, 1, 1, (uint16_t)atoi(words[2])) ==
          WAYSTATION_STATUS_OK);
    /* An answer by UDP may be late on a machine that is busy. */
    waystation_status status = WAYSTATION_STATUS_NO_AGENT;
    for (int look = 0; look < 60 && status != WAYSTATION_STATUS_OK; look++) {
        status = waystation_pick(lars, &host);
    }
    CHECK(status == WAYSTATION_STATUS_OK);
    CHECK(host.source == WAYSTATION_SOURCE_UDP);
    CHECK(strcmp(waystation_source_name(host.source), "udp") == 0);
    CHECK(waystation_report(lars, &host, WAYSTATION_END_OK, 0) == WAYSTATION_STATUS_OK);
    waystation_caller_free(lars);

    /* What is wrong is answered. */
    CHECK(waystation_caller_new(NULL, words[1]) == NULL);
    CHECK(waystation_caller_new("pay", NULL) == NULL);
    CHECK(waystation_caller_clone(NULL) == NULL);
    CHECK(waystation_pick(NULL, &host) == WAYSTATION_STATUS_BAD_ARGUMENT);
    CHECK(waystation_report(NULL, &host, WAYSTATION_END_OK, 0) ==
          WAYSTATION_STATUS_BAD_ARGUMENT);
    CHECK(waystation_caller_use_lars(NULL, 1, 1, 0) == WAYSTATION_STATUS_BAD_ARGUMENT);
    CHECK(strcmp(waystation_error(NULL), "") == 0);
    CHECK(waystation_report_load(NULL, &host, WAYSTATION_END_OK, 0, NULL) ==
          WAYSTATION_STATUS_BAD_ARGUMENT);
    waystation_caller_free(NULL);
    printf("done %d\n", picks);
    return 0;
}
