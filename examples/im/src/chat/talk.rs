//! One user's chat: what commands do, and what is shown.

use std::cell::{Cell, OnceCell, RefCell};
use std::collections::{BTreeSet, HashMap, VecDeque};
use std::rc::{Rc, Weak};
use std::sync::mpsc::{SyncSender, TrySendError};

use tokio::sync::Notify;
use waystation_base::Moment;
use waystation_net::{Label, Shard, until};
use waystation_service::{Code, Status};

use super::Shown;
use super::command::{Command, HELP};
use super::limits::{COMMAND_WAIT, SEND_WAIT, SENDS_AHEAD_MAX, WATCHED_MAX};
use super::show;
use crate::client::{CURSORS_MAX, Client, Delivery, Events, Outgoing, SessionEvent};
use crate::im::entry::method;
use crate::im::{
    Conversation, ConversationsRequest, CreateGroupRequest, HistoryRequest, MarkReadRequest,
    MembersRequest, Message, PresenceRequest, SendReply, SendRequest, UserPresence,
};
use crate::store::direct_conversation;

/// What a chat keeps while it runs.
pub(super) struct Talk {
    shard: Shard,
    user: String,
    client: OnceCell<Client>,
    output: SyncSender<Shown>,
    /// Lines that found no room in the output.
    left_out: Cell<u64>,
    current: RefCell<Option<String>>,
    /// What begins the ids of this process's messages.
    id_prefix: String,
    sent: Cell<u64>,
    failed: Cell<u64>,
    refused: RefCell<Option<Status>>,
    /// The last number seen in each conversation.
    seen: RefCell<HashMap<String, u64>>,
    watched: RefCell<BTreeSet<String>>,
    pub(super) changed: Notify,
}

impl Talk {
    /// A chat of `user` that prints to `output`. `id_prefix` is unique.
    pub(super) fn new(
        shard: &Shard,
        user: String,
        id_prefix: String,
        output: SyncSender<Shown>,
    ) -> Self {
        Self {
            shard: shard.clone(),
            user,
            client: OnceCell::new(),
            output,
            left_out: Cell::new(0),
            current: RefCell::new(None),
            id_prefix,
            sent: Cell::new(0),
            failed: Cell::new(0),
            refused: RefCell::new(None),
            seen: RefCell::default(),
            watched: RefCell::default(),
            changed: Notify::new(),
        }
    }

    /// Gives the chat its client; once.
    pub(super) fn set_client(&self, client: Client) {
        assert!(self.client.set(client).is_ok(), "a chat has one client");
    }

    pub(super) fn client(&self) -> &Client {
        self.client
            .get()
            .expect("the client is set before anything runs")
    }

    /// Messages that were given up.
    pub(super) fn failed(&self) -> u64 {
        self.failed.get()
    }

    /// Why Entry lets this user in no more.
    pub(super) fn refused(&self) -> Option<Status> {
        self.refused.borrow().clone()
    }

    /// Prints a line; leaves it out when nobody reads.
    pub(super) fn show(&self, line: String) {
        let missing = self.left_out.get();
        if missing > 0 {
            let note = format!("! {missing} lines were left out: the output is not read");
            if self.output.try_send(Shown::Line(note)).is_ok() {
                self.left_out.set(0);
            }
        }
        if let Err(TrySendError::Full(_)) = self.output.try_send(Shown::Line(line)) {
            self.left_out.set(self.left_out.get() + 1);
        }
    }

    /// A line of input is none.
    pub(super) fn reject(&self, mistake: &str) {
        self.failed.set(self.failed.get() + 1);
        self.complain(mistake);
    }

    fn complain(&self, what: &str) {
        self.show(format!("! {}", show::clean(what)));
    }

    fn tell(&self, what: &str) {
        self.show(format!("* {}", show::clean(what)));
    }

    fn deadline(&self) -> Moment {
        self.shard.now() + COMMAND_WAIT
    }

    /// Does what a command says. Failures are shown.
    pub(super) async fn perform(&self, command: Command) {
        let done = match command {
            Command::Nothing | Command::Quit => Ok(()),
            Command::Say(text) => {
                self.say(text).await;
                Ok(())
            }
            Command::To(user) => {
                self.go_to_user(&user);
                Ok(())
            }
            Command::Group { name, members } => self.go_to_group(&name, members).await,
            Command::History(count) => self.history(count).await,
            Command::Who(users) => self.who(users).await,
            Command::Conversations => self.conversations().await,
            Command::Read => self.read().await,
            Command::Help => {
                for line in HELP {
                    self.show(format!("  {line}"));
                }
                Ok(())
            }
        };
        if let Err(status) = done {
            self.complain(&status.to_string());
        }
    }

    fn here(&self) -> Option<String> {
        let here = self.current.borrow().clone();
        if here.is_none() {
            self.complain("with whom? /to USER or /group NAME");
        }
        here
    }

    async fn say(&self, body: String) {
        let Some(conversation) = self.here() else {
            // It will not be sent: whoever reads our exit code learns of it.
            self.failed.set(self.failed.get() + 1);
            return;
        };
        while self.client().sends_pending() >= SENDS_AHEAD_MAX && self.refused().is_none() {
            self.changed.notified().await;
        }
        let number = self.sent.get() + 1;
        self.sent.set(number);
        let outgoing = Outgoing {
            request: SendRequest {
                conversation,
                client_id: format!("{}{number}", self.id_prefix),
                body,
                ..SendRequest::default()
            },
            deadline: self.shard.now() + SEND_WAIT,
            tag: number,
        };
        if let Err(outgoing) = self.client().send(outgoing) {
            self.has_failed(&outgoing, &Status::overloaded("too many messages wait"));
        }
    }

    fn has_failed(&self, outgoing: &Outgoing, status: &Status) {
        self.failed.set(self.failed.get() + 1);
        let text: String = outgoing.request.body.chars().take(40).collect();
        self.complain(&format!("not sent: `{text}`: {status}"));
    }

    /// Talks to a user from now on.
    pub(super) fn go_to_user(&self, user: &str) {
        match direct_conversation(&self.user, user) {
            Ok(conversation) => {
                *self.current.borrow_mut() = Some(conversation);
                self.tell(&format!("talking to {user}"));
            }
            Err(error) => self.complain(&error.to_string()),
        }
    }

    /// Talks in a group from now on; makes it when there is none.
    pub(super) async fn go_to_group(&self, name: &str, members: Vec<String>) -> Result<(), Status> {
        let conversation = format!("g:{name}");
        let create = CreateGroupRequest {
            uid: String::new(),
            name: name.to_owned(),
            members: members.clone(),
        };
        let created = self
            .client()
            .request::<method::CreateGroup>(&create, self.deadline())
            .await;
        match created {
            Ok(group) if group.changed => {
                self.tell(&format!(
                    "made the group {name}: {}",
                    group.members.join(", ")
                ));
            }
            Ok(_) => {}
            // It exists, and others made it: whoever is in may let users in.
            Err(status) if status.code() == Code::Conflict => {
                self.enter_group(&conversation, members).await?;
            }
            Err(status) => return Err(status),
        }
        *self.current.borrow_mut() = Some(conversation);
        self.tell(&format!("talking in {name}"));
        Ok(())
    }

    async fn enter_group(&self, conversation: &str, members: Vec<String>) -> Result<(), Status> {
        let deadline = self.deadline();
        if members.is_empty() {
            // Only members may read: this fails for others.
            let look = HistoryRequest {
                conversation: conversation.to_owned(),
                limit: 1,
                ..HistoryRequest::default()
            };
            self.client()
                .request::<method::History>(&look, deadline)
                .await?;
            return Ok(());
        }
        let add = MembersRequest {
            uid: String::new(),
            conversation: conversation.to_owned(),
            members,
        };
        let group = self
            .client()
            .request::<method::AddMembers>(&add, deadline)
            .await?;
        self.tell(&format!("members: {}", group.members.join(", ")));
        Ok(())
    }

    /// Waits for what was sent before, so that a pipe reads what it wrote.
    async fn sends_done(&self) {
        let quiet = async {
            while self.client().sends_pending() > 0 {
                self.changed.notified().await;
            }
        };
        // Afterwards the command says itself what is wrong.
        let _ = until(&self.shard, self.deadline(), quiet).await;
    }

    async fn history(&self, count: u32) -> Result<(), Status> {
        let Some(conversation) = self.here() else {
            return Ok(());
        };
        self.sends_done().await;
        let messages = self.newest(&conversation, count).await?;
        if messages.is_empty() {
            self.tell("no messages yet");
        }
        for message in &messages {
            let line = show::message(message, Some(&conversation), &self.user);
            self.show(line);
        }
        Ok(())
    }

    /// The last messages of a conversation, page after page.
    async fn newest(&self, conversation: &str, count: u32) -> Result<VecDeque<Message>, Status> {
        let wanted = usize::try_from(count).unwrap_or(usize::MAX);
        let mut messages = VecDeque::new();
        loop {
            let left = wanted.saturating_sub(messages.len());
            let first = messages
                .front()
                .map_or(u64::MAX, |first: &Message| first.seq);
            let request = HistoryRequest {
                conversation: conversation.to_owned(),
                before_seq: Some(first),
                limit: u32::try_from(left).unwrap_or(count),
                ..HistoryRequest::default()
            };
            let deadline = self.deadline();
            let page = self
                .client()
                .request::<method::History>(&request, deadline)
                .await?;
            for message in page.messages.into_iter().rev() {
                messages.push_front(message);
            }
            if !page.more || messages.len() >= wanted {
                return Ok(messages);
            }
        }
    }

    async fn who(&self, users: Vec<String>) -> Result<(), Status> {
        let users = if users.is_empty() {
            match self.here() {
                Some(here) if here.starts_with("d:") => {
                    vec![show::place(&here, &self.user).to_owned()]
                }
                Some(_) => {
                    self.complain("name them: /who USER...");
                    return Ok(());
                }
                None => return Ok(()),
            }
        } else {
            users
        };
        let watch = {
            let mut watched = self.watched.borrow_mut();
            let fits = watched.len() + users.len() <= WATCHED_MAX;
            if fits {
                watched.extend(users.iter().cloned());
            }
            fits
        };
        for user in self.presence(users, watch).await? {
            self.show_presence(&user);
        }
        Ok(())
    }

    async fn presence(&self, uids: Vec<String>, watch: bool) -> Result<Vec<UserPresence>, Status> {
        let request = PresenceRequest {
            uid: String::new(),
            uids,
            watch,
        };
        let deadline = self.deadline();
        let reply = self
            .client()
            .request::<method::Presence>(&request, deadline)
            .await?;
        Ok(reply.users)
    }

    fn show_presence(&self, user: &UserPresence) {
        let state = if user.online { "online" } else { "away" };
        self.tell(&format!("{} is {state}", user.uid));
    }

    async fn conversations(&self) -> Result<(), Status> {
        self.sends_done().await;
        let mut request = ConversationsRequest::default();
        loop {
            let deadline = self.deadline();
            let page = self
                .client()
                .request::<method::Conversations>(&request, deadline)
                .await?;
            for conversation in &page.conversations {
                self.show(show::conversation(conversation, &self.user));
            }
            let last = page.conversations.into_iter().next_back();
            if last.is_none() && request.after.is_empty() {
                self.tell("no conversations yet");
            }
            match last {
                Some(last) if page.more => request.after = last.conversation,
                _ => return Ok(()),
            }
        }
    }

    async fn read(&self) -> Result<(), Status> {
        let Some(conversation) = self.here() else {
            return Ok(());
        };
        let seq = self.seen.borrow().get(&conversation).copied();
        let Some(seq) = seq else {
            self.tell("nothing to read here");
            return Ok(());
        };
        let request = MarkReadRequest {
            uid: String::new(),
            conversation,
            seq,
        };
        let deadline = self.deadline();
        let mark = self
            .client()
            .request::<method::MarkRead>(&request, deadline)
            .await?;
        self.tell(&format!("{} unread", mark.unread));
        Ok(())
    }

    fn has_seen(&self, conversation: &str, seq: u64) {
        let mut seen = self.seen.borrow_mut();
        if let Some(last) = seen.get_mut(conversation) {
            *last = seq.max(*last);
        } else if seen.len() < CURSORS_MAX {
            seen.insert(conversation.to_owned(), seq);
        }
    }

    fn has_logged_in(self: &Rc<Self>, resumed: bool, conversations: &[Conversation]) {
        if resumed {
            self.tell("connected again");
            self.watch_again();
            return;
        }
        for conversation in conversations {
            self.has_seen(&conversation.conversation, conversation.last_seq);
            if conversation.unread > 0 {
                self.show(show::conversation(conversation, &self.user));
            }
        }
    }

    /// Entry forgets with a connection whom it watched.
    fn watch_again(self: &Rc<Self>) {
        let users: Vec<String> = self.watched.borrow().iter().cloned().collect();
        if users.is_empty() {
            return;
        }
        let talk = self.clone();
        self.shard.spawn(Label::of("im watch"), async move {
            if let Err(status) = talk.presence(users, true).await {
                talk.complain(&format!("who comes and goes is not told: {status}"));
            }
        });
    }
}

/// Hears for a chat what its client is told.
pub(super) struct Ears {
    pub(super) talk: Weak<Talk>,
}

impl Events for Ears {
    fn on_message(&self, delivery: Delivery) {
        let Some(talk) = self.talk.upgrade() else {
            return;
        };
        let message = &delivery.message;
        talk.has_seen(&message.conversation, message.seq);
        // What was typed here stands on the screen already.
        let typed_here =
            message.sender == talk.user && message.client_id.starts_with(&talk.id_prefix);
        if !typed_here {
            let current = talk.current.borrow().clone();
            talk.show(show::message(message, current.as_deref(), &talk.user));
        }
    }

    fn on_sent(&self, sent: &Outgoing, outcome: Result<SendReply, Status>) {
        let Some(talk) = self.talk.upgrade() else {
            return;
        };
        if let Err(status) = outcome {
            talk.has_failed(sent, &status);
        }
        talk.changed.notify_waiters();
    }

    fn on_presence(&self, presence: UserPresence) {
        if let Some(talk) = self.talk.upgrade() {
            talk.show_presence(&presence);
        }
    }

    fn on_session(&self, event: SessionEvent) {
        let Some(talk) = self.talk.upgrade() else {
            return;
        };
        match event {
            SessionEvent::Up {
                resumed,
                conversations,
                ..
            } => talk.has_logged_in(resumed, &conversations),
            SessionEvent::Down { reason } => {
                talk.tell(&format!("connection lost ({reason}); connecting again"));
            }
            SessionEvent::Refused(status) => *talk.refused.borrow_mut() = Some(status),
        }
        talk.changed.notify_waiters();
    }
}
