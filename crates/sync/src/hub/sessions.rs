//! The connections of one shard: sites, publishers, operators.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{Notify, oneshot};
use waystation_base::{ConnName, Epoch, Seq};
use waystation_mailbox::{Receiver, Sender};
use waystation_net::native::{Control, Handler, Inbound, Router, Started};
use waystation_net::{CloseReason, Conn, Label, Shard};
use waystation_replica::limits::PAYLOAD_BYTES_MAX;
use waystation_replica::{
    Notice, Publish, PublishRefusal, Refusal, SessionConfig, ToHub, ToSite, Violation, Welcome,
};
use waystation_wire::{Header, Status};

use super::board::Board;
use super::http::Http;
use super::letters::{Ticket, ToDesk, ToShard, Unable};
use super::operate::Operation;
use super::publish::{
    self, Labels, OldPublishHandler, OperateHandler, PartHandler, Parts, PublishHandler, status_of,
};
use super::session_task;
use super::tail::Tail;
use super::waits::{Answer, FromFrame, Waiter, Waits};
use crate::codec::{DecodeError, FromHub, FromSite, Pieces, id};
use crate::limits::{
    HELLO_BYTES_MAX, PROOF_WAIT_MAX, REQUESTS_PER_CONNECTION, SESSION_INPUTS_MAX,
    STATEMENT_HERE_BYTES,
};
use crate::statement::{self, StatementFault};

/// What a session's task takes in.
pub(super) enum Input {
    Message(ToHub),
    Notice(Notice),
    Read(Result<Arc<[Arc<waystation_replica::Entry>]>, waystation_replica::Unread>),
    /// Goes to the site as it is.
    Say(FromHub),
}

/// How far a site's connection is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// Nothing whole has come.
    New,
    /// Its hello is at the desk.
    Greeted,
    /// It has a session.
    Up,
}

/// A site's connection.
pub(super) struct Seat {
    pub(super) conn: Conn,
    pieces: RefCell<Pieces>,
    stage: Cell<Stage>,
    pub(super) inputs: RefCell<VecDeque<Input>>,
    /// The last end of the log that its task has not heard of.
    pub(super) end: Cell<Option<Seq>>,
    /// There is something for its task.
    pub(super) woken: Notify,
    /// Messages to be written.
    pub(super) out: RefCell<VecDeque<FromHub>>,
    pub(super) out_woken: Notify,
    /// Nothing more is put into `out`: the connection ends behind it.
    pub(super) is_closing: Cell<bool>,
    pub(super) is_over: Cell<bool>,
}

impl Seat {
    fn new(conn: &Conn) -> Self {
        Self {
            conn: conn.clone(),
            pieces: RefCell::default(),
            stage: Cell::new(Stage::New),
            inputs: RefCell::default(),
            end: Cell::new(None),
            woken: Notify::new(),
            out: RefCell::default(),
            out_woken: Notify::new(),
            is_closing: Cell::new(false),
            is_over: Cell::new(false),
        }
    }

    fn input(&self, input: Input) {
        if self.inputs.borrow().len() >= SESSION_INPUTS_MAX {
            tracing::warn!(peer = %self.conn.peer(), "a site says more than can be taken in");
            return self.conn.close(CloseReason::Memory);
        }
        self.inputs.borrow_mut().push_back(input);
        self.woken.notify_one();
    }

    pub(super) fn send(&self, message: FromHub) {
        if !self.is_closing.get() {
            self.out.borrow_mut().push_back(message);
            self.out_woken.notify_one();
        }
    }

    /// Says why, and closes behind it.
    pub(super) fn refuse(&self, refusal: Refusal) {
        self.send(FromHub::Core(ToSite::Refused(refusal)));
        self.is_closing.set(true);
        self.out_woken.notify_one();
    }

    fn refuse_told(&self, text: String) {
        let text = text.into();
        self.refuse(Refusal::Violation(Violation::Told { text }));
    }
}

/// The sessions of a shard.
pub(super) struct Sessions {
    pub(super) shard: Shard,
    pub(super) desk: Sender<ToDesk>,
    pub(super) tail: Arc<Tail>,
    pub(super) config: SessionConfig,
    answer_wait: Duration,
    board: Board,
    seats: RefCell<BTreeMap<ConnName, Rc<Seat>>>,
    pub(super) parts: RefCell<BTreeMap<ConnName, Parts>>,
    waits: Waits<Waiter>,
    pub(super) labels: Labels,
}

impl Sessions {
    pub(super) fn new(
        shard: &Shard,
        desk: Sender<ToDesk>,
        tail: Arc<Tail>,
        config: SessionConfig,
        answer_wait: Duration,
        board: Board,
    ) -> Rc<Self> {
        Rc::new(Self {
            board,
            shard: shard.clone(),
            desk,
            tail,
            config,
            answer_wait,
            seats: RefCell::default(),
            parts: RefCell::default(),
            waits: Waits::default(),
            labels: Labels::default(),
        })
    }

    /// Takes the desk's letters until the desk is gone.
    pub(super) async fn read_letters(self: Rc<Self>, mut letters: Receiver<ToShard>) {
        let mut batch = Vec::new();
        while letters.recv_batch(&mut batch).await.is_some() {
            for letter in batch.drain(..) {
                self.take(letter);
            }
        }
    }

    fn take(self: &Rc<Self>, letter: ToShard) {
        match letter {
            ToShard::Admit(conn, welcome) => self.admit(conn, welcome),
            ToShard::Refuse(conn, refusal) => {
                if let Some(seat) = self.seat(conn) {
                    seat.refuse(refusal);
                }
            }
            ToShard::Notify(conn, notice) => {
                if let Some(seat) = self.seat(conn) {
                    seat.input(Input::Notice(notice));
                }
            }
            ToShard::End(end) => {
                for seat in self.seats.borrow().values() {
                    seat.end.set(Some(end));
                    seat.woken.notify_one();
                }
            }
            ToShard::Say(conn, message) => {
                if let Some(seat) = self.seat(conn) {
                    seat.input(Input::Say(message));
                }
            }
            ToShard::Published(epoch, published) => {
                for (wait, seq) in published {
                    self.answer(wait, Answer::Published(Ok((epoch, seq))));
                }
            }
            ToShard::PublishRefused(wait, refusal) => {
                self.answer(wait, Answer::Published(Err(refusal)));
            }
            ToShard::Operated(wait, result) => self.answer(wait, Answer::Operated(result)),
        }
    }

    fn answer(&self, wait: u64, answer: Answer) {
        match (self.waits.take(wait), answer) {
            (Some(Waiter::Task(task)), answer) => {
                // A caller that is gone wants no answer.
                let _ = task.send(answer);
            }
            (Some(Waiter::Frame(from)), Answer::Published(result)) => {
                publish::answer(&from.conn, &from.header, result);
            }
            // The caller is gone; or an operation's answer, which no frame waits for.
            (None, _) | (Some(Waiter::Frame(_)), Answer::Operated(_)) => {}
        }
    }

    fn seat(&self, conn: ConnName) -> Option<Rc<Seat>> {
        self.seats.borrow().get(&conn).map(Rc::clone)
    }

    fn admit(self: &Rc<Self>, conn: ConnName, welcome: Welcome) {
        let Some(seat) = self.seat(conn) else {
            // It is gone, and the desk hears of that.
            return;
        };
        if seat.stage.get() != Stage::Greeted {
            return;
        }
        seat.stage.set(Stage::Up);
        let task = session_task::run(Rc::clone(self), seat, welcome);
        self.shard.spawn(Label::of("sync session"), task);
    }

    /// The connection that says something as a site.
    fn seat_of(self: &Rc<Self>, conn: &Conn) -> Rc<Seat> {
        if let Some(seat) = self.seat(conn.name()) {
            return seat;
        }
        let seat = Rc::new(Seat::new(conn));
        let mut seats = self.seats.borrow_mut();
        seats.insert(conn.name(), Rc::clone(&seat));
        let writing = session_task::write(Rc::clone(&seat));
        self.shard.spawn(Label::of("sync writer"), writing);
        seat
    }

    fn hear(self: &Rc<Self>, conn: &Conn, piece: &[u8]) {
        let seat = self.seat_of(conn);
        let taken = seat.pieces.borrow_mut().push(piece);
        match taken {
            Ok(None) => {
                let held = seat.pieces.borrow().held_bytes();
                if seat.stage.get() != Stage::Up && held > HELLO_BYTES_MAX {
                    conn.close(CloseReason::Protocol("sync hello"));
                }
            }
            Ok(Some(message)) => self.hear_message(&seat, message),
            Err(error) => seat.refuse_told(error.to_string()),
        }
    }

    fn hear_message(&self, seat: &Seat, message: Bytes) {
        let message = match FromSite::decode(message) {
            Ok(message) => message,
            Err(error @ (DecodeError::Version { .. } | DecodeError::Malformed)) => {
                tracing::warn!(peer = %seat.conn.peer(), %error, "refused a site");
                return seat.refuse_told(error.to_string());
            }
        };
        let name = seat.conn.name();
        match (seat.stage.get(), message) {
            (Stage::New, FromSite::Core(ToHub::Hello(hello))) => {
                seat.stage.set(Stage::Greeted);
                self.tell(&seat.conn, ToDesk::Hello(name, hello));
            }
            (Stage::Up, FromSite::Core(message)) => seat.input(Input::Message(message)),
            (Stage::Up, FromSite::Proof(answer)) => {
                self.tell(&seat.conn, ToDesk::Proof(name, answer));
            }
            _ => seat.refuse_told("a message before the welcome".to_owned()),
        }
    }

    /// Tells the desk; a connection that finds no room there ends.
    pub(super) fn tell(&self, conn: &Conn, letter: ToDesk) {
        if self.desk.try_send(letter).is_err() {
            conn.close(CloseReason::Memory);
        }
    }

    fn closed(self: &Rc<Self>, conn: &Conn) {
        let name = conn.name();
        self.parts.borrow_mut().remove(&name);
        let Some(seat) = self.seats.borrow_mut().remove(&name) else {
            return;
        };
        seat.is_over.set(true);
        seat.woken.notify_one();
        seat.out_woken.notify_one();
        self.shard
            .spawn(Label::of("sync loss"), tell_lost(Rc::clone(self), name));
    }

    /// Publishes what came in a frame, which is answered once the entry is durable.
    pub(super) fn publish_from(&self, conn: &Conn, header: Header, publish: Publish) {
        let from = FromFrame {
            conn: conn.clone(),
            header,
            running: conn.handler_guard(),
        };
        let ticket = self.wait(Waiter::Frame(from));
        if (self.desk.try_send(ToDesk::Publish(ticket, publish))).is_err() {
            self.answer(ticket.wait, Answer::Published(Err(PublishRefusal::Busy)));
        }
    }

    /// Publishes, and waits until the entry is durable. A statement that would do
    /// something else at each site is refused unless it `may_differ`, and so is what
    /// databases would stand at.
    pub(super) async fn publish(
        self: Rc<Self>,
        publish: Publish,
        may_differ: bool,
    ) -> Result<(Epoch, Seq), Unable> {
        if !may_differ {
            let look = |payload: &[u8]| {
                let checked = statement::check_entry(payload);
                checked.map(|()| statement::is_opaque(payload))
            };
            if self.look_at(&publish.payload, look).await?
                && let Some(sites) = self.board.databases()
            {
                let error =
                    format!("it is no statement: the databases of {sites} would stand at it");
                return Err(Unable::new(Status::InvalidRequest, error));
            }
        }
        let published = self.publish_checked(publish).await;
        published.map_err(|refusal| Unable::new(status_of(&refusal), refusal.to_string()))
    }

    /// Refuses a statement that would do something else at each site.
    pub(super) async fn check_statement(&self, payload: &Bytes) -> Result<(), Unable> {
        self.look_at(payload, statement::check_entry).await
    }

    /// Looks at an entry, aside of the shard unless it is short.
    async fn look_at<T: Send + 'static>(
        &self,
        payload: &Bytes,
        look: impl Fn(&[u8]) -> Result<T, StatementFault> + Send + 'static,
    ) -> Result<T, Unable> {
        let text = payload.clone();
        let check = move || look(&text);
        let checked = if payload.len() <= STATEMENT_HERE_BYTES {
            check()
        } else {
            let checked = self.shard.offload("check a statement", check).await;
            checked.map_err(|error| Unable::new(Status::Overloaded, error.to_string()))?
        };
        checked.map_err(|fault| Unable::new(Status::InvalidRequest, fault.to_string()))
    }

    /// Publishes what need not be looked at.
    pub(super) async fn publish_checked(
        self: Rc<Self>,
        publish: Publish,
    ) -> Result<(Epoch, Seq), PublishRefusal> {
        let letter = |ticket| ToDesk::Publish(ticket, publish);
        match self.ask(Duration::ZERO, letter).await {
            Ok(Answer::Published(result)) => result,
            Ok(Answer::Operated(_)) | Err(Unanswered::NotAsked) => Err(PublishRefusal::Busy),
            Err(Unanswered::Late) => {
                let error = "the log does not answer".into();
                Err(PublishRefusal::Unknown { error })
            }
        }
    }

    /// Has an operation done: its answer in JSON.
    pub(super) async fn operate(self: Rc<Self>, operation: Operation) -> Result<Bytes, Unable> {
        let wait = match operation {
            Operation::Verify { wait_ms } => Duration::from_millis(wait_ms).min(PROOF_WAIT_MAX),
            _ => Duration::ZERO,
        };
        let letter = |ticket| ToDesk::Operate(ticket, operation);
        match self.ask(wait, letter).await {
            Ok(Answer::Operated(result)) => result,
            Ok(Answer::Published(_)) | Err(Unanswered::NotAsked) => {
                let error = "the hub has too much to do";
                Err(Unable::new(Status::Overloaded, error))
            }
            Err(Unanswered::Late) => {
                let error = "it may be done or not: the log does not answer";
                Err(Unable::new(Status::OutcomeUnknown, error))
            }
        }
    }

    /// Asks the desk, and waits `more` than for what is to be durable.
    async fn ask(
        &self,
        more: Duration,
        letter: impl FnOnce(Ticket) -> ToDesk,
    ) -> Result<Answer, Unanswered> {
        let (answer, waiter) = oneshot::channel();
        let ticket = self.wait(Waiter::Task(answer));
        let wait = ticket.wait;
        let _waiting = Waiting { of: self, wait };
        self.desk
            .try_send(letter(ticket))
            .map_err(|_| Unanswered::NotAsked)?;
        let late = self.shard.sleep(self.answer_wait + more);
        tokio::select! {
            biased;
            // A desk that is gone has answered whom it could.
            answer = waiter => answer.map_err(|_| Unanswered::Late),
            () = late => Err(Unanswered::Late),
        }
    }

    fn wait(&self, waiter: Waiter) -> Ticket {
        let shard = self.shard.id().0;
        let wait = self.waits.add(waiter);
        Ticket { shard, wait }
    }
}

/// Whether a payload may be a statement: a quick look, so that what is none goes its
/// way at once.
pub(super) fn may_be_statement(payload: &[u8]) -> bool {
    match payload.get(..STATEMENT_HERE_BYTES) {
        // A character that is cut is no fault.
        Some(begin) => match std::str::from_utf8(begin) {
            Ok(_) => true,
            Err(error) => error.error_len().is_none(),
        },
        None => statement::may_be_statement(payload),
    }
}

/// Why there is no answer of the desk.
enum Unanswered {
    /// It has no room, or is gone.
    NotAsked,
    /// It did not answer in time: what was asked may be done or not.
    Late,
}

/// Takes a wait off the list, however it ends.
struct Waiting<'a> {
    of: &'a Sessions,
    wait: u64,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.of.waits.take(self.wait);
    }
}

/// The desk must hear that a connection is gone, whenever it has room.
async fn tell_lost(sessions: Rc<Sessions>, name: ConnName) {
    while sessions.desk.try_send(ToDesk::Lost(name)).is_err() && !sessions.desk.is_closed() {
        let pause = Duration::from_millis(10);
        sessions.shard.sleep(pause).await;
    }
}

struct ToHubHandler(Rc<Sessions>);

impl Handler for ToHubHandler {
    fn handle(&self, conn: &Conn, message: Inbound<'_>) -> Started {
        self.0.hear(conn, message.body);
        None
    }

    fn label(&self) -> Label {
        self.0.labels.site
    }
}

struct Closing(Rc<Sessions>);

impl Control for Closing {
    fn on_close(&self, conn: &Conn, _reason: CloseReason) {
        self.0.closed(conn);
    }
}

pub(super) fn router(sessions: &Rc<Sessions>) -> Router {
    let mut router = Router::new();
    let handlers: [(_, Rc<dyn Handler>); 5] = [
        (id::TO_HUB, Rc::new(ToHubHandler(Rc::clone(sessions)))),
        (id::PUBLISH_PART, Rc::new(PartHandler(Rc::clone(sessions)))),
        (id::PUBLISH, Rc::new(PublishHandler(Rc::clone(sessions)))),
        (id::PUBLISH_1, Rc::new(OldPublishHandler)),
        (id::OPERATE, Rc::new(OperateHandler(Rc::clone(sessions)))),
    ];
    for (message, handler) in handlers {
        let routed = router.route(message, handler);
        routed.expect("message ids of one protocol differ");
    }
    router.set_http(Rc::new(Http(Rc::clone(sessions))));
    router.set_http_body_bytes(PAYLOAD_BYTES_MAX);
    router.set_control(Rc::new(Closing(Rc::clone(sessions))));
    router.set_concurrency(REQUESTS_PER_CONNECTION);
    router
}
