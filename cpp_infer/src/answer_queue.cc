#include "answer_queue.h"

#include <algorithm>
#include <iostream>

#include "stop_strings.h"

namespace paddle_glm {
namespace {

const char* const kClosing = "the server is shutting down";

}  // namespace

std::string Answer::wait(std::chrono::milliseconds time) {
    std::unique_lock lock(mutex_);
    changed_.wait_for(lock, time, [&] { return !text_.empty() || end_ || error_; });
    if (error_) std::rethrow_exception(error_);
    std::string text;
    text.swap(text_);
    taken_end_ = end_;
    return text;
}

void Answer::push(const std::string& text) {
    if (text.empty()) return;
    const std::lock_guard lock(mutex_);
    text_ += text;
    changed_.notify_one();
}

void Answer::finish(const AnswerEnd& end) {
    const std::lock_guard lock(mutex_);
    end_ = end;
    changed_.notify_one();
}

void Answer::fail(std::exception_ptr error) {
    const std::lock_guard lock(mutex_);
    error_ = std::move(error);
    changed_.notify_one();
}

std::shared_ptr<Answer> AnswerQueue::submit(AnswerRequest request) {
    auto answer = std::make_shared<Answer>(std::move(request));
    const std::lock_guard lock(mutex_);
    if (closed_) throw OverloadedError(kClosing);
    drop_cancelled();
    if (waiting_.size() >= max_waiting_) {
        throw QueueFullError(std::to_string(running_) + " requests are running and " +
                             std::to_string(waiting_.size()) + " are waiting: try again later");
    }
    waiting_.push_back(answer);
    changed_.notify_one();
    return answer;
}

void AnswerQueue::run(Session& session) {
    while (const std::shared_ptr<Answer> answer = next()) {
        try {
            generate(session, *answer);
        } catch (const InputError&) {
            answer->fail(std::current_exception());
        } catch (const OverloadedError&) {
            answer->fail(std::current_exception());
        } catch (const std::exception& error) {
            std::cerr << "error: generation failed: " << error.what() << std::endl;
            answer->fail(std::current_exception());
        }
        running_ = 0;
    }
    const std::lock_guard lock(mutex_);
    for (const auto& answer : waiting_) answer->fail(std::make_exception_ptr(OverloadedError(kClosing)));
    waiting_.clear();
}

void AnswerQueue::generate(Session& session, Answer& answer) {
    const AnswerRequest& request = answer.request_;
    StopStrings stops(request.stop_strings);
    const auto show = [&](const std::string& piece) {
        answer.push(stops.push(piece));
        return !stops.stopped() && !answer.cancelled_ && !closed_;
    };
    const Reply reply = session.stream(request.messages, request.params, show);
    const bool ended = reply.complete || stops.stopped();
    if (closed_ && !ended) throw OverloadedError(kClosing);
    answer.push(stops.finish());
    answer.finish({ended ? "stop" : "length", reply.prompt_tokens, static_cast<int64_t>(reply.ids.size())});
}

void AnswerQueue::close() {
    const std::lock_guard lock(mutex_);
    closed_ = true;
    changed_.notify_one();
}

size_t AnswerQueue::waiting() {
    const std::lock_guard lock(mutex_);
    drop_cancelled();
    return waiting_.size();
}

std::shared_ptr<Answer> AnswerQueue::next() {
    std::unique_lock lock(mutex_);
    while (true) {
        changed_.wait(lock, [&] { return closed_ || !waiting_.empty(); });
        if (closed_) return nullptr;
        drop_cancelled();
        if (waiting_.empty()) continue;
        std::shared_ptr<Answer> answer = waiting_.front();
        waiting_.pop_front();
        running_ = 1;
        return answer;
    }
}

void AnswerQueue::drop_cancelled() {
    const auto cancelled = [](const auto& answer) { return bool(answer->cancelled_); };
    waiting_.erase(std::remove_if(waiting_.begin(), waiting_.end(), cancelled), waiting_.end());
}

}  // namespace paddle_glm
