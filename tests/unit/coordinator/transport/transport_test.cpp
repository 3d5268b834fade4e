// Real sockets on loopback: who is admitted, who isn't, and what happens when the other side goes
// away.
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>
#include <zmq.h>

#include <atomic>
#include <cstdlib>
#include <filesystem>
#include <functional>
#include <string>
#include <thread>

#include "base/file.h"
#include "base/process.h"
#include "coordinator/protocol/dsv3.pb.h"
#include "coordinator/protocol/frames.h"
#include "coordinator/transport/agent_link.h"
#include "coordinator/transport/client.h"
#include "coordinator/transport/server.h"

namespace dsv3::transport {
namespace {

constexpr int kPatienceMs = 10'000;

// A state directory with keys and a server that answers pings with the name of the key that asked.
class Transport : public testing::Test {
 protected:
  void SetUp() override {
    std::string name = "/tmp/dsv3-transport-XXXXXX";
    ASSERT_NE(::mkdtemp(name.data()), nullptr);
    dir_ = name;
    ASSERT_TRUE(ensure_keys(dir_).ok());
    start("first", "");
  }
  void TearDown() override {
    stop();
    std::filesystem::remove_all(dir_);
  }

  void start(const std::string& instance, const std::string& endpoint) {
    Result<Server> server = Server::bind(dir_, endpoint);
    ASSERT_TRUE(server.ok()) << server.status().to_string();
    endpoint_ = server->endpoint();
    ASSERT_TRUE(write_coordinator_file(
                    dir_, {endpoint_, server->public_key(), ::getpid(), instance, "test", 0, ""})
                    .ok());
    stopping_ = false;
    thread_ = std::thread([this, server = std::move(*server)]() mutable { serve(server); });
  }
  void stop() {
    stopping_ = true;
    if (thread_.joinable()) thread_.join();
  }
  void serve(Server& server) {
    while (!stopping_) {
      (void)server.wait(-1, 20);
      Peer peer;
      wire::Envelope message;
      bool received = false;
      while (server.receive(&peer, &message, &received).ok() && received) {
        if (before_answer_) before_answer_(server);
        wire::Envelope reply;
        reply.set_request_id(message.request_id());
        reply.mutable_ping_reply()->mutable_coordinator()->set_host(
            peer.key_name + (peer.role == Role::kAgent ? "/agent" : "/client"));
        (void)server.send(peer, reply);
        ++answered_;
      }
    }
  }
  static Status ping(Client& client, std::string* host, int timeout_ms = kPatienceMs) {
    wire::Envelope request;
    request.mutable_ping();
    wire::Envelope reply;
    DSV3_RETURN_IF_ERROR(client.request(request, &reply, timeout_ms));
    *host = reply.ping_reply().coordinator().host();
    return {};
  }

  std::string dir_;
  std::string endpoint_;
  std::thread thread_;
  std::function<void(Server&)> before_answer_;
  std::atomic<bool> stopping_{false};
  std::atomic<int> answered_{0};
};

TEST_F(Transport, AnswersAnAllowedClientUnderItsKeysName) {
  Result<Client> client = Client::connect(dir_);
  ASSERT_TRUE(client.ok()) << client.status().to_string();
  std::string host;
  for (int i = 0; i < 3; ++i) {
    const Status status = ping(*client, &host);
    ASSERT_TRUE(status.ok()) << status.to_string();
    EXPECT_EQ(host, "client/client");
  }
}

TEST_F(Transport, AFileOfAProcessWhosePidAnotherHasNowIsOfNoCoordinator) {
  CoordinatorFile file = *read_coordinator_file(dir_);
  file.start_ticks = process_start_ticks(::getpid());
  file.boot_id = boot_id();
  ASSERT_GT(file.start_ticks, 0);
  ASSERT_TRUE(write_coordinator_file(dir_, file).ok());
  EXPECT_TRUE(Client::connect(dir_).ok());
  --file.start_ticks;
  ASSERT_TRUE(write_coordinator_file(dir_, file).ok());
  EXPECT_EQ(Client::connect(dir_).status().code(), Code::kNoCoordinator);
  ++file.start_ticks;
  file.boot_id = "the boot before";
  ASSERT_TRUE(write_coordinator_file(dir_, file).ok());
  EXPECT_EQ(Client::connect(dir_).status().code(), Code::kNoCoordinator);
}

TEST_F(Transport, RefusesAKeyThatIsNotInTheAllowList) {
  // The stranger knows the server's public key and has a good pair of its own: only the allow-list
  // is against it.
  ASSERT_TRUE(create_key_pair(dir_, "client-stranger", false).ok());
  Result<Client> client = Client::connect_as(dir_, "client-stranger");
  ASSERT_TRUE(client.ok());
  std::string host;
  const Status status = ping(*client, &host);
  EXPECT_EQ(status.code(), Code::kNotAuthorised) << status.to_string();
  EXPECT_EQ(answered_, 0);
}

TEST_F(Transport, AdmitsTheSameKeyOnceItIsListedAndNotAfterItIsRemoved) {
  ASSERT_TRUE(create_key_pair(dir_, "client-guest", true).ok());
  std::string host;
  {
    Result<Client> client = Client::connect_as(dir_, "client-guest");
    ASSERT_TRUE(client.ok());
    ASSERT_TRUE(ping(*client, &host).ok());
    EXPECT_EQ(host, "client-guest/client");
  }
  std::filesystem::remove(dir_ + "/keys/allowed/client-guest.pub");
  Result<Client> client = Client::connect_as(dir_, "client-guest");
  ASSERT_TRUE(client.ok());
  EXPECT_EQ(ping(*client, &host).code(), Code::kNotAuthorised);
}

TEST_F(Transport, AListedKeyWithoutARoleIsNotAdmitted) {
  ASSERT_TRUE(create_key_pair(dir_, "visitor", true).ok());
  Result<Client> client = Client::connect_as(dir_, "visitor");
  ASSERT_TRUE(client.ok());
  std::string host;
  EXPECT_EQ(ping(*client, &host).code(), Code::kNotAuthorised);
}

TEST_F(Transport, PlainSocketsAreNotAnswered) {
  void* context = zmq_ctx_new();
  void* socket = zmq_socket(context, ZMQ_DEALER);
  const int linger = 0;
  const int patience_ms = 300;
  zmq_setsockopt(socket, ZMQ_LINGER, &linger, sizeof linger);
  zmq_setsockopt(socket, ZMQ_RCVTIMEO, &patience_ms, sizeof patience_ms);
  ASSERT_EQ(zmq_connect(socket, endpoint_.c_str()), 0);
  wire::Envelope message;
  message.mutable_ping();
  const std::string frame = *protocol::encode(message);
  zmq_send(socket, frame.data(), frame.size(), 0);
  char byte = 0;
  EXPECT_EQ(zmq_recv(socket, &byte, 1, 0), -1);
  EXPECT_EQ(answered_, 0);
  zmq_close(socket);
  zmq_ctx_term(context);
}

TEST_F(Transport, ConnectWithoutACoordinatorFileSaysSo) {
  stop();
  std::filesystem::remove(coordinator_file_path(dir_));
  EXPECT_EQ(Client::connect(dir_).status().code(), Code::kNoCoordinator);
}

TEST_F(Transport, AFileLeftByADeadProcessIsNoCoordinator) {
  // Process ids end at 2^22 on Linux.
  ASSERT_TRUE(
      write_coordinator_file(dir_, {endpoint_, std::string(40, 'x'), (1 << 22) + 5, "old", "test"})
          .ok());
  EXPECT_EQ(Client::connect(dir_).status().code(), Code::kNoCoordinator);
  EXPECT_TRUE(read_coordinator_file_of_any(dir_).ok());
}

TEST_F(Transport, AServerThatDoesNotAnswerIsATimeout) {
  stop();
  Result<Client> client = Client::connect(dir_);
  ASSERT_TRUE(client.ok());
  std::string host;
  EXPECT_EQ(ping(*client, &host, 50).code(), Code::kTimeout);
}

// What `dsv3ctl down` asks: the coordinator answers, ends, and its answer comes in after its end.
TEST_F(Transport, TheLastAnswerOfACoordinatorThatEndsIsHeard) {
  const pid_t coordinator = ::fork();
  if (coordinator == 0) {
    while (true) ::pause();
  }
  stop();
  before_answer_ = [coordinator](Server& server) {
    ::kill(coordinator, SIGKILL);
    ::waitpid(coordinator, nullptr, 0);
    (void)server.wait(-1, 500);  // the client looks for the process every 200 ms
  };
  start("second", "");
  CoordinatorFile file = *read_coordinator_file(dir_);
  file.pid = coordinator;
  ASSERT_TRUE(write_coordinator_file(dir_, file).ok());
  Result<Client> client = Client::connect(dir_);
  ASSERT_TRUE(client.ok()) << client.status().to_string();
  std::string host;
  const Status status = ping(*client, &host);
  EXPECT_TRUE(status.ok()) << status.to_string();
  EXPECT_EQ(host, "client/client");
  stop();
  EXPECT_EQ(ping(*client, &host).code(), Code::kNoCoordinator) << "nobody is there to be asked";
}

TEST_F(Transport, KeyFilesThatOthersCanReadAreRefused) {
  ASSERT_EQ(::chmod((dir_ + "/keys/client.key").c_str(), 0644), 0);
  EXPECT_EQ(Client::connect(dir_).status().code(), Code::kNotAuthorised);
}

TEST_F(Transport, KeysAreMadeOnceAndPrivately) {
  const std::string before = *read_file(dir_ + "/keys/server.key");
  ASSERT_TRUE(ensure_keys(dir_).ok());
  EXPECT_EQ(*read_file(dir_ + "/keys/server.key"), before);
  struct stat info {};
  ASSERT_EQ(::stat((dir_ + "/keys/server.key").c_str(), &info), 0);
  EXPECT_EQ(info.st_mode & 0777, 0600u);
  EXPECT_EQ(create_key_pair(dir_, "server", false).code(), Code::kConflict);
}

// Sends a ping over the link until an answer comes.
Status ping_link(AgentLink& link, std::string* host) {
  for (int i = 0; i < 200; ++i) {
    wire::Envelope message;
    message.mutable_ping();
    const Status status = link.send(message);
    if (!status.ok() && status.code() != Code::kTemporary) return status;
    bool received = false;
    DSV3_RETURN_IF_ERROR(link.receive(&message, &received, 50));
    if (!received) continue;
    *host = message.ping_reply().coordinator().host();
    return {};
  }
  return Status(Code::kTimeout, "no answer");
}

TEST_F(Transport, AnAgentIsKnownAsOne) {
  Result<AgentLink> link = AgentLink::connect(dir_);
  ASSERT_TRUE(link.ok());
  std::string host;
  ASSERT_TRUE(ping_link(*link, &host).ok());
  EXPECT_EQ(host, "agent/agent");
  EXPECT_GE(link->fd(), 0);
  EXPECT_FALSE(*link->refresh());
}

TEST_F(Transport, AnAgentFindsACoordinatorThatCameBackOnAnotherPort) {
  Result<AgentLink> link = AgentLink::connect(dir_);
  ASSERT_TRUE(link.ok());
  std::string host;
  ASSERT_TRUE(ping_link(*link, &host).ok());
  stop();
  const std::string before = endpoint_;
  start("second", "tcp://127.0.0.1:*");
  ASSERT_NE(endpoint_, before);
  const Result<bool> moved = link->refresh();
  ASSERT_TRUE(moved.ok());
  EXPECT_TRUE(*moved);
  EXPECT_TRUE(ping_link(*link, &host).ok());
}

TEST_F(Transport, AServerTakesItsOldPortAgain) {
  stop();
  const std::string before = endpoint_;
  start("second", before);
  EXPECT_EQ(endpoint_, before);
}

TEST_F(Transport, AnOversizedFrameCutsOnlyItsSender) {
  Result<KeyPair> keys = load_key_pair(dir_, "client");
  ASSERT_TRUE(keys.ok());
  Result<CoordinatorFile> file = read_coordinator_file(dir_);
  ASSERT_TRUE(file.ok());
  void* context = zmq_ctx_new();
  void* socket = zmq_socket(context, ZMQ_DEALER);
  const int linger = 0;
  const int patience_ms = 300;
  zmq_setsockopt(socket, ZMQ_LINGER, &linger, sizeof linger);
  zmq_setsockopt(socket, ZMQ_RCVTIMEO, &patience_ms, sizeof patience_ms);
  zmq_setsockopt(socket, ZMQ_CURVE_SERVERKEY, file->server_public_key.data(), 40);
  zmq_setsockopt(socket, ZMQ_CURVE_PUBLICKEY, keys->public_key.data(), 40);
  zmq_setsockopt(socket, ZMQ_CURVE_SECRETKEY, keys->secret_key.data(), 40);
  ASSERT_EQ(zmq_connect(socket, endpoint_.c_str()), 0);
  const std::string huge(static_cast<size_t>(protocol::kFrameMaxBytes) + 1024, 'x');
  ASSERT_GE(zmq_send(socket, huge.data(), huge.size(), 0), 0);
  char byte = 0;
  EXPECT_EQ(zmq_recv(socket, &byte, 1, 0), -1);
  zmq_close(socket);
  zmq_ctx_term(context);
  Result<Client> client = Client::connect(dir_);
  ASSERT_TRUE(client.ok());
  std::string host;
  EXPECT_TRUE(ping(*client, &host).ok());
}

}  // namespace
}  // namespace dsv3::transport
