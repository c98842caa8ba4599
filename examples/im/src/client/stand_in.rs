//! An Entry for tests: keeps everything in memory, follows the contract, and
//! breaks it where it is told to.

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};
use std::rc::Rc;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use waystation_base::{ConnName, ShardId};
use waystation_net::{Address, CloseReason, MemoryIo, NetConfig, Server, Shard};
use waystation_service::{Ctx, Peer, Router, Status};

use crate::im::{
    Conversation, ConversationsReply, ConversationsRequest, CreateGroupRequest, GroupReply,
    GroupRequest, HistoryReply, HistoryRequest, LoginReply, LoginRequest, MarkReadReply,
    MarkReadRequest, MembersRequest, Message, PresenceReply, PresenceRequest, RemoveMemberRequest,
    SendReply, SendRequest, UserPresence, client, entry,
};
use crate::store::{ConversationName, check_uid};

/// How the stand-in breaks the contract, or is just unlucky.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Mischief {
    #[default]
    None,
    /// Every third send that is new is stored, but its connection is cut before
    /// the answer. This keeps the contract. When it comes again it is answered:
    /// of three sends on one connection the same one would be cut for ever.
    CutBeforeAnswer,
    /// Every third send is refused as unavailable. This keeps the contract.
    RefuseSome,
    /// One delivery is left out.
    Lose,
    /// One delivery is made twice.
    Duplicate,
    /// One message is stored again under another number.
    StoreTwice,
    /// One delivery is exchanged with the next of its conversation.
    Swap,
    /// One delivery has another body.
    Corrupt,
    /// One delivery also goes to a user who is no member.
    Misdeliver,
    /// A push that is no message, once.
    BadPush,
}

/// What tests set and read.
#[derive(Debug, Default)]
pub(crate) struct Script {
    pub(crate) mischief: Mischief,
    /// Faults that were committed.
    pub(crate) committed: u32,
    /// Logins, with whether each resumed.
    pub(crate) logins: Vec<(String, bool)>,
    pub(crate) stored: BTreeMap<String, Vec<String>>,
}

/// A running stand-in.
pub(crate) struct StandIn {
    pub(crate) server: Server,
    pub(crate) script: Arc<Mutex<Script>>,
}

#[derive(Default)]
struct Room {
    members: Vec<String>,
    messages: Vec<Message>,
}

#[derive(Default)]
struct State {
    rooms: BTreeMap<String, Room>,
    online: HashMap<String, Vec<ConnName>>,
    held: HashMap<(String, String), Message>,
    sends: u32,
}

struct Service {
    shard: Shard,
    state: RefCell<State>,
    script: Arc<Mutex<Script>>,
}

/// Who a connection is.
struct Uid(String);

impl StandIn {
    pub(crate) fn address() -> Address {
        Address::Memory("entry".into())
    }

    pub(crate) fn start(io: &Arc<MemoryIo>) -> Self {
        let script = Arc::<Mutex<Script>>::default();
        let config = NetConfig {
            io: io.clone(),
            drain: Duration::from_millis(200),
            ..NetConfig::default()
        };
        let shared = script.clone();
        let listen = move |shard: &Shard| {
            let service = Rc::new(Service {
                shard: shard.clone(),
                state: RefCell::default(),
                script: shared.clone(),
            });
            let mut router = Router::new(shard);
            entry::register(&mut router, service.clone()).unwrap();
            router.on_close(move |peer, _| service.gone(peer));
            router.into_protocol()
        };
        let server = Server::builder(config)
            .listen(Self::address(), listen)
            .start()
            .unwrap();
        Self { server, script }
    }

    /// Cuts every connection; they may come again.
    pub(crate) fn cut_all(&self) {
        let cut = |shard: &Shard| {
            for conn in shard.connections() {
                conn.close(CloseReason::Local);
            }
        };
        self.server.remote().run_on(ShardId(0), cut).unwrap();
    }

    pub(crate) fn set(&self, mischief: Mischief) {
        self.script.lock().unwrap().mischief = mischief;
    }
}

fn uid_of(ctx: &Ctx) -> Result<String, Status> {
    let uid = ctx.conn().and_then(waystation_net::Conn::property::<Uid>);
    let uid = uid.ok_or_else(|| Status::unauthenticated("no login"))?;
    Ok(uid.0.clone())
}

fn members_of(conversation: &str) -> Result<Vec<String>, Status> {
    match ConversationName::parse(conversation) {
        Ok(ConversationName::Direct { first, second }) => {
            let mut members = vec![first.to_owned(), second.to_owned()];
            members.dedup();
            Ok(members)
        }
        Ok(ConversationName::Group { .. }) => Err(Status::not_found("no such group")),
        Err(error) => Err(Status::invalid_request(error.to_string())),
    }
}

impl Service {
    fn gone(&self, peer: &Peer) {
        if let Some(uid) = peer.get::<Uid>() {
            let mut state = self.state.borrow_mut();
            if let Some(names) = state.online.get_mut(&uid.0) {
                names.retain(|name| *name != peer.name());
            }
        }
    }

    /// Commits `wanted` if it is what the script says, and only once.
    fn once(&self, wanted: Mischief) -> bool {
        let mut script = self.script.lock().unwrap();
        let commit = script.mischief == wanted && script.committed == 0;
        script.committed += u32::from(commit);
        commit
    }

    fn push(&self, uid: &str, message: &Message) {
        let names = self.state.borrow().online.get(uid).cloned();
        for name in names.unwrap_or_default() {
            if let Ok(conn) = self.shard.connection(name) {
                // A connection that is gone gets it with its resume.
                let _ = client::push_deliver(&Peer::new(conn), message);
            }
        }
    }

    fn deliver(&self, uid: &str, message: &Message) {
        let key = (uid.to_owned(), message.conversation.clone());
        let held = self.state.borrow_mut().held.remove(&key);
        if let Some(held) = held {
            self.push(uid, message);
            return self.push(uid, &held);
        }
        if message.seq > 1 {
            if self.once(Mischief::Lose) {
                return;
            }
            if self.once(Mischief::Swap) {
                self.state.borrow_mut().held.insert(key, message.clone());
                return;
            }
            if self.once(Mischief::Corrupt) {
                let mut message = message.clone();
                message.body.push('!');
                return self.push(uid, &message);
            }
            if self.once(Mischief::Duplicate) {
                self.push(uid, message);
            }
            if self.once(Mischief::BadPush) {
                self.bad_push(uid);
            }
        }
        self.push(uid, message);
        if self.is_due(Mischief::Misdeliver)
            && let Some(stranger) = self.stranger(message)
            && self.once(Mischief::Misdeliver)
        {
            self.push(&stranger, message);
        }
    }

    fn is_due(&self, mischief: Mischief) -> bool {
        self.script.lock().unwrap().mischief == mischief
    }

    fn stranger(&self, message: &Message) -> Option<String> {
        let state = self.state.borrow();
        let members = &state.rooms.get(&message.conversation)?.members;
        let mut uids: Vec<_> = state.online.keys().collect();
        uids.sort();
        uids.into_iter().find(|uid| !members.contains(uid)).cloned()
    }

    fn bad_push(&self, uid: &str) {
        let names = self.state.borrow().online[uid].clone();
        for name in names {
            if let Ok(conn) = self.shard.connection(name) {
                let id = <client::method::Deliver as waystation_service::Method>::ID;
                let mut frame = Vec::new();
                let header = waystation_wire::Header::push(id);
                waystation_wire::encode_into(&header, &[0xff; 5], &mut frame).unwrap();
                let _ = conn.send(&frame);
            }
        }
    }

    /// Stores a message; answers its number, and whether it is new.
    fn store(&self, sender: &str, request: &SendRequest) -> Result<(u64, bool), Status> {
        let mut state = self.state.borrow_mut();
        if !state.rooms.contains_key(&request.conversation) {
            let members = members_of(&request.conversation)?;
            let room = Room {
                members,
                messages: Vec::new(),
            };
            state.rooms.insert(request.conversation.clone(), room);
        }
        let room = state.rooms.get_mut(&request.conversation).unwrap();
        if !room.members.iter().any(|member| member == sender) {
            return Err(Status::permission_denied("not a member"));
        }
        let known = |m: &&Message| m.sender == sender && m.client_id == request.client_id;
        if let Some(stored) = room.messages.iter().find(known) {
            return Ok((stored.seq, false));
        }
        let seq = room.messages.len() as u64 + 1;
        room.messages.push(Message {
            conversation: request.conversation.clone(),
            seq,
            sender: sender.to_owned(),
            client_id: request.client_id.clone(),
            body: request.body.clone(),
            at_ms: 1_700_000_000_000 + seq,
        });
        let mut script = self.script.lock().unwrap();
        let stored = script.stored.entry(request.conversation.clone());
        stored.or_default().push(request.client_id.clone());
        Ok((seq, true))
    }

    fn fan_out(&self, conversation: &str, seq: u64) {
        let (mut message, members) = {
            let state = self.state.borrow();
            let room = &state.rooms[conversation];
            let index = usize::try_from(seq).unwrap() - 1;
            (room.messages[index].clone(), room.members.clone())
        };
        for member in &members {
            self.deliver(member, &message);
        }
        if message.seq > 1 && self.once(Mischief::StoreTwice) {
            let mut state = self.state.borrow_mut();
            let room = state.rooms.get_mut(conversation).unwrap();
            message.seq = room.messages.len() as u64 + 1;
            room.messages.push(message.clone());
            drop(state);
            for member in &members {
                self.deliver(member, &message);
            }
        }
    }
}

impl entry::Entry for Service {
    async fn login(&self, ctx: &Ctx, request: LoginRequest) -> Result<LoginReply, Status> {
        check_uid(&request.uid).map_err(|error| Status::invalid_request(error.to_string()))?;
        let conn = ctx.conn().unwrap();
        conn.set_property(Rc::new(Uid(request.uid.clone())));
        let mut missed = Vec::new();
        let mut conversations = Vec::new();
        {
            let mut state = self.state.borrow_mut();
            let names = state.online.entry(request.uid.clone()).or_default();
            names.push(conn.name());
            for (name, room) in &state.rooms {
                if !room.members.contains(&request.uid) {
                    continue;
                }
                let last_seq = room.messages.last().map_or(0, |message| message.seq);
                let cursor = request.cursors.get(name).copied().unwrap_or(0);
                let after = if request.resume { cursor } else { last_seq };
                missed.extend(room.messages.iter().filter(|m| m.seq > after).cloned());
                conversations.push(Conversation {
                    conversation: name.clone(),
                    last_seq,
                    ..Conversation::default()
                });
            }
        }
        let login = (request.uid.clone(), request.resume);
        self.script.lock().unwrap().logins.push(login);
        // One in the answer, and one in each page behind it.
        let rest = conversations.split_off(conversations.len().min(1));
        let more = !rest.is_empty();
        let left = (0..rest.len()).rev();
        for (conversation, left) in rest.into_iter().zip(left) {
            let page = ConversationsReply {
                conversations: vec![conversation],
                more: left > 0,
            };
            let _ = client::push_conversations(&Peer::new(conn.clone()), &page);
        }
        for message in missed {
            let _ = client::push_deliver(&Peer::new(conn.clone()), &message);
        }
        Ok(LoginReply {
            uid: request.uid,
            conversations,
            more,
        })
    }

    async fn send(&self, ctx: &Ctx, request: SendRequest) -> Result<SendReply, Status> {
        let uid = uid_of(ctx)?;
        let third = {
            let mut state = self.state.borrow_mut();
            state.sends += 1;
            state.sends.is_multiple_of(3)
        };
        if third && self.is_due(Mischief::RefuseSome) {
            self.script.lock().unwrap().committed += 1;
            return Err(Status::unavailable("come again"));
        }
        let (seq, new) = self.store(&uid, &request)?;
        if new {
            self.fan_out(&request.conversation, seq);
        }
        if third && new && self.is_due(Mischief::CutBeforeAnswer) {
            self.script.lock().unwrap().committed += 1;
            ctx.conn().unwrap().close(CloseReason::Local);
        }
        Ok(SendReply {
            members: Vec::new(),
            conversation: request.conversation,
            seq,
            at_ms: 1_700_000_000_000 + seq,
            duplicate: !new,
        })
    }

    async fn history(&self, ctx: &Ctx, request: HistoryRequest) -> Result<HistoryReply, Status> {
        uid_of(ctx)?;
        let state = self.state.borrow();
        let room = state.rooms.get(&request.conversation);
        let room = room.ok_or_else(|| Status::not_found("no such conversation"))?;
        let keep = usize::try_from(request.limit).unwrap();
        let skip = room.messages.len().saturating_sub(keep);
        Ok(HistoryReply {
            messages: room.messages[skip..].to_vec(),
            more: skip > 0,
        })
    }

    async fn conversations(
        &self,
        _: &Ctx,
        _: ConversationsRequest,
    ) -> Result<ConversationsReply, Status> {
        Ok(ConversationsReply::default())
    }

    async fn mark_read(&self, _: &Ctx, request: MarkReadRequest) -> Result<MarkReadReply, Status> {
        Ok(MarkReadReply {
            read_seq: request.seq,
            unread: 0,
        })
    }

    async fn members(&self, ctx: &Ctx, request: GroupRequest) -> Result<GroupReply, Status> {
        uid_of(ctx)?;
        let state = self.state.borrow();
        let room = state.rooms.get(&request.conversation);
        let room = room.ok_or_else(|| Status::not_found("no such conversation"))?;
        Ok(GroupReply {
            members: room.members.clone(),
            conversation: request.conversation,
            changed: false,
        })
    }

    async fn create_group(
        &self,
        ctx: &Ctx,
        request: CreateGroupRequest,
    ) -> Result<GroupReply, Status> {
        let mut members = request.members;
        members.push(uid_of(ctx)?);
        members.sort();
        members.dedup();
        let conversation = format!("g:{}", request.name);
        let room = Room {
            members: members.clone(),
            messages: Vec::new(),
        };
        let mut state = self.state.borrow_mut();
        let changed = !state.rooms.contains_key(&conversation);
        state.rooms.entry(conversation.clone()).or_insert(room);
        Ok(GroupReply {
            conversation,
            members,
            changed,
        })
    }

    async fn add_members(&self, _: &Ctx, _: MembersRequest) -> Result<GroupReply, Status> {
        Err(Status::unimplemented("no test needs it"))
    }

    async fn remove_member(&self, _: &Ctx, _: RemoveMemberRequest) -> Result<GroupReply, Status> {
        Err(Status::unimplemented("no test needs it"))
    }

    async fn presence(&self, _: &Ctx, request: PresenceRequest) -> Result<PresenceReply, Status> {
        let state = self.state.borrow();
        let users = request.uids.into_iter().map(|uid| {
            let online = state
                .online
                .get(&uid)
                .is_some_and(|names| !names.is_empty());
            UserPresence { uid, online }
        });
        Ok(PresenceReply {
            users: users.collect(),
        })
    }
}
