//! Arbitrary batches of arbitrary operations against a model in memory: same
//! answers, same state, also across reopening.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;
use crate::store::{Appended, MemberRemoved, MembersAdded, ReadMarked};

const UIDS: [&str; 3] = ["alice", "bob", "carol"];
const CONVERSATIONS: [&str; 5] = [
    "d:alice:bob",
    "d:bob:carol",
    "d:carol:carol",
    "g:one",
    "g:two",
];

/// What the answer to an operation is, with errors reduced to their kind.
type Answer = Result<WriteOutcome, &'static str>;

#[derive(Debug, Default)]
struct Model {
    conversations: BTreeMap<String, ModelConversation>,
}

#[derive(Debug, Default)]
struct ModelConversation {
    founders: Option<(String, BTreeSet<String>)>,
    messages: Vec<Append>,
    members: BTreeMap<String, Place>,
}

#[derive(Debug, Clone, Copy)]
struct Place {
    joined_seq: u64,
    read_seq: u64,
}

impl ModelConversation {
    fn last_seq(&self) -> u64 {
        self.messages.len() as u64
    }

    fn join(&mut self, uid: &str) {
        let last_seq = self.last_seq();
        self.members.entry(uid.to_owned()).or_insert(Place {
            joined_seq: last_seq + 1,
            read_seq: last_seq,
        });
    }

    fn uids(&self) -> Vec<String> {
        self.members.keys().cloned().collect()
    }

    fn visible(&self, uid: &str) -> Vec<StoredMessage> {
        let joined_seq = self.members[uid].joined_seq;
        let numbered = (1..).zip(&self.messages);
        let visible = numbered.filter(|(seq, _)| *seq >= joined_seq);
        visible
            .map(|(seq, message)| StoredMessage {
                seq,
                sender: message.sender.clone(),
                client_id: message.client_id.clone(),
                body: message.body.clone(),
                at_ms: message.at_ms,
            })
            .collect()
    }
}

impl Model {
    fn answer(&mut self, operation: &WriteOperation) -> Answer {
        match operation {
            WriteOperation::Append(append) => self.append(append),
            WriteOperation::CreateGroup(create) => self.create(create),
            WriteOperation::AddMembers(add) => {
                let group = self.group_of(&add.conversation, &add.actor)?;
                let wanted: BTreeSet<String> = add.members.iter().cloned().collect();
                let is_new = |uid: &String| !group.members.contains_key(uid);
                let added: Vec<String> = wanted.into_iter().filter(is_new).collect();
                for uid in &added {
                    group.join(uid);
                }
                let members = group.uids();
                Ok(WriteOutcome::MembersAdded(MembersAdded { added, members }))
            }
            WriteOperation::RemoveMember(remove) => {
                let group = self.group_of(&remove.conversation, &remove.actor)?;
                let removed = group.members.remove(&remove.uid).is_some();
                let members = group.uids();
                Ok(WriteOutcome::MemberRemoved(MemberRemoved {
                    removed,
                    members,
                }))
            }
            WriteOperation::MarkRead(mark) => self.mark(mark),
        }
    }

    fn append(&mut self, append: &Append) -> Answer {
        if !self.conversations.contains_key(&append.conversation) {
            let pair = append.conversation.strip_prefix("d:").ok_or("unknown")?;
            let parties: Vec<&str> = pair.split(':').collect();
            if !parties.contains(&append.sender.as_str()) {
                return Err("not a member");
            }
            let created = self
                .conversations
                .entry(append.conversation.clone())
                .or_default();
            for uid in &parties {
                created.join(uid);
            }
        }
        let conversation = self.conversations.get_mut(&append.conversation).unwrap();
        let same = |message: &Append| {
            message.sender == append.sender && message.client_id == append.client_id
        };
        let members = conversation.uids();
        if let Some(index) = conversation.messages.iter().position(same) {
            return Ok(WriteOutcome::Appended(Appended {
                seq: index as u64 + 1,
                at_ms: conversation.messages[index].at_ms,
                duplicate: true,
                members,
            }));
        }
        let last_seq = conversation.last_seq();
        let place = conversation
            .members
            .get_mut(&append.sender)
            .ok_or("not a member")?;
        if place.read_seq == last_seq {
            place.read_seq += 1;
        }
        conversation.messages.push(append.clone());
        Ok(WriteOutcome::Appended(Appended {
            seq: last_seq + 1,
            at_ms: append.at_ms,
            duplicate: false,
            members,
        }))
    }

    fn create(&mut self, create: &CreateGroup) -> Answer {
        let conversation = format!("g:{}", create.name);
        let mut members: BTreeSet<String> = create.members.iter().cloned().collect();
        members.insert(create.creator.clone());
        let founders = Some((create.creator.clone(), members.clone()));
        let created = !self.conversations.contains_key(&conversation);
        let group = self.conversations.entry(conversation.clone()).or_default();
        if created {
            group.founders.clone_from(&founders);
            for uid in &members {
                group.join(uid);
            }
        }
        if group.founders != founders {
            return Err("exists");
        }
        let members = group.uids();
        Ok(WriteOutcome::GroupCreated(GroupCreated {
            conversation,
            created,
            members,
        }))
    }

    fn mark(&mut self, mark: &MarkRead) -> Answer {
        let is_direct = mark.conversation.starts_with("d:");
        if is_direct && !mark.conversation.split(':').any(|uid| uid == mark.uid) {
            return Err("not a member");
        }
        let conversation = self
            .conversations
            .get_mut(&mark.conversation)
            .ok_or("unknown")?;
        let last_seq = conversation.last_seq();
        let place = conversation
            .members
            .get_mut(&mark.uid)
            .ok_or("not a member")?;
        place.read_seq = place.read_seq.max(mark.seq.min(last_seq));
        Ok(WriteOutcome::ReadMarked(ReadMarked {
            read_seq: place.read_seq,
            last_seq,
        }))
    }

    fn group_of(
        &mut self,
        conversation: &str,
        actor: &str,
    ) -> Result<&mut ModelConversation, &'static str> {
        if conversation.starts_with("d:") {
            return Err("invalid");
        }
        let group = self.conversations.get_mut(conversation).ok_or("unknown")?;
        if group.members.contains_key(actor) {
            Ok(group)
        } else {
            Err("not a member")
        }
    }

    fn states(&self, uid: &str) -> Vec<ConversationState> {
        let mine = self
            .conversations
            .iter()
            .filter_map(|(name, conversation)| {
                let place = conversation.members.get(uid)?;
                let last_seq = conversation.last_seq();
                Some(ConversationState {
                    conversation: name.clone(),
                    last_seq,
                    read_seq: place.read_seq,
                    unread: last_seq - place.read_seq,
                    joined_seq: place.joined_seq,
                })
            });
        mine.collect()
    }
}

fn kind(error: &StoreError) -> &'static str {
    match error {
        StoreError::InvalidName { .. } => "invalid",
        StoreError::NotMember { .. } => "not a member",
        StoreError::NoSuchConversation { .. } => "unknown",
        StoreError::AlreadyExists { .. } => "exists",
        _ => "something else",
    }
}

fn uid() -> impl Strategy<Value = String> {
    prop::sample::select(&UIDS[..]).prop_map(str::to_owned)
}

fn conversation() -> impl Strategy<Value = String> {
    prop::sample::select(&CONVERSATIONS[..]).prop_map(str::to_owned)
}

fn uids() -> impl Strategy<Value = Vec<String>> {
    prop::collection::vec(uid(), 0..4)
}

fn operation() -> impl Strategy<Value = WriteOperation> {
    let append = (
        conversation(),
        uid(),
        0..5_u8,
        "[a-z\u{e9}]{0,3}",
        0..100_u64,
    )
        .prop_map(|(conversation, sender, id, body, at_ms)| {
            WriteOperation::Append(Append {
                conversation,
                sender,
                client_id: id.to_string(),
                body,
                at_ms,
            })
        });
    let create = (prop::sample::select(&["one", "two"][..]), uid(), uids()).prop_map(
        |(name, creator, members)| {
            WriteOperation::CreateGroup(CreateGroup {
                name: name.to_owned(),
                creator,
                members,
            })
        },
    );
    let add = (conversation(), uid(), uids()).prop_map(|(conversation, actor, members)| {
        WriteOperation::AddMembers(AddMembers {
            conversation,
            actor,
            members,
        })
    });
    let remove =
        (conversation(), uid(), uid()).prop_map(|(c, actor, uid)| remove(&c, &actor, &uid));
    let mark = (conversation(), uid(), 0..9_u64).prop_map(|(c, uid, seq)| mark(&c, &uid, seq));
    prop_oneof![6 => append, 2 => create, 1 => add, 1 => remove, 2 => mark]
}

/// An empty batch stands for reopening the file.
fn batches() -> impl Strategy<Value = Vec<Vec<WriteOperation>>> {
    prop::collection::vec(prop::collection::vec(operation(), 0..8), 1..12)
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 96,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn the_store_answers_as_the_model_does(batches in batches()) {
        let mut chat = TestStore::new();
        let mut model = Model::default();
        for batch in batches {
            if batch.is_empty() {
                chat.reopen();
            }
            let expected: Vec<Answer> = batch.iter().map(|each| model.answer(each)).collect();
            let results = chat.store.write(batch);
            let answers: Vec<Answer> = results
                .into_iter()
                .map(|result| result.map_err(|error| kind(&error)))
                .collect();
            prop_assert_eq!(answers, expected);
        }
        let mut reader = chat.store.reader().unwrap();
        for uid in UIDS {
            let query = ConversationsQuery { uid: uid.to_owned(), after: None, limit: 500 };
            prop_assert_eq!(reader.conversations(&query).unwrap(), model.states(uid));
        }
        for name in CONVERSATIONS {
            let Some(conversation) = model.conversations.get(name) else {
                prop_assert!(reader.members(name).is_err());
                continue;
            };
            prop_assert_eq!(reader.members(name).unwrap(), conversation.uids());
            for uid in conversation.members.keys() {
                prop_assert_eq!(chat.whole_history(uid, name), conversation.visible(uid));
            }
        }
    }
}
