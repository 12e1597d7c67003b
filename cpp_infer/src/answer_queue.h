#pragma once

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <deque>
#include <exception>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "paddle_glm/session.h"

namespace paddle_glm {

// The queue is full, or closed; the request may be repeated later.
class OverloadedError : public std::runtime_error {
  public:
    using std::runtime_error::runtime_error;
};

// The queue is full.
class QueueFullError : public OverloadedError {
  public:
    using OverloadedError::OverloadedError;
};

struct AnswerRequest {
    Session::Conversation messages;
    GenerationParams params;
    std::vector<std::string> stop_strings;
};

// How an answer ended: `GenerationOutput` in Python.
struct AnswerEnd {
    const char* finish_reason = "";  // "stop" or "length"
    int64_t prompt_tokens = 0;
    int64_t completion_tokens = 0;
};

// An answer on its way from the thread that generates it to the one that asked.
class Answer {
  public:
    explicit Answer(AnswerRequest request) : request_(std::move(request)) {}

    // Waits until there is more text or the end; returns the new text, empty after `time`. Throws what
    // generation threw.
    std::string wait(std::chrono::milliseconds time);
    // Set once `wait` has returned the last text.
    const std::optional<AnswerEnd>& end() const { return taken_end_; }
    // Nobody waits for the answer any more.
    void cancel() { cancelled_ = true; }

  private:
    friend class AnswerQueue;

    void push(const std::string& text);
    void finish(const AnswerEnd& end);
    void fail(std::exception_ptr error);

    const AnswerRequest request_;
    std::atomic<bool> cancelled_{false};
    std::mutex mutex_;
    std::condition_variable changed_;
    std::string text_;
    std::optional<AnswerEnd> end_;
    std::exception_ptr error_;
    std::optional<AnswerEnd> taken_end_;
};

// Requests in the order of their arrival, answered one after the other.
class AnswerQueue {
  public:
    explicit AnswerQueue(size_t max_waiting) : max_waiting_(max_waiting) {}

    // Throws OverloadedError if the queue is full or closed.
    std::shared_ptr<Answer> submit(AnswerRequest request);
    // Answers requests until the queue is closed.
    void run(Session& session);
    // Ends `run` after the current token; incomplete answers fail with OverloadedError.
    void close();

    size_t running() const { return running_; }
    size_t waiting();

  private:
    std::shared_ptr<Answer> next();
    void generate(Session& session, Answer& answer);
    void drop_cancelled();

    const size_t max_waiting_;
    std::atomic<bool> closed_{false};
    std::atomic<size_t> running_{0};
    std::mutex mutex_;
    std::condition_variable changed_;
    std::deque<std::shared_ptr<Answer>> waiting_;
};

}  // namespace paddle_glm
