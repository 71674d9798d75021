// libtorch.cpp: haste.h as the output layer of a model of libtorch's (C++), in mode `fused` of examples/python: forward trains, and
// backward hands the gradient to the encoder.
//
//     T=$(python3 -c 'import torch; print(torch.__path__[0])')
//     c++ -std=c++20 -O2 -fopenmp -I. -I$T/include -I$T/include/torch/csrc/api/include examples/python/libtorch.cpp
//         -L$T/lib -Wl,-rpath,$T/lib -ltorch -ltorch_cpu -lc10 -o libtorch          (one line, from the repository's folder)
//
// Prints a falling loss, and how often the best label is right.
#define HASTE_IMPLEMENTATION
#include "haste.h"

#include <torch/torch.h>

static haste_error error;

static void check(haste_status status) { TORCH_CHECK(status == HASTE_OK, error.text); }

struct Output {
    haste_layer layer{};
    haste_workspace work{};
    haste_step_options step{};

    Output(int32_t labels, int32_t inputs)
    {
        haste_layer_options options{};
        options.labels = labels;
        options.inputs = inputs;
        options.optimizer = HASTE_ADAMW;
        check(haste_layer_create(&layer, &options, &error));
        check(haste_workspace_create(&work, &layer, nullptr, &error));
    }
    ~Output()
    {
        haste_workspace_free(&work);
        haste_layer_free(&layer);
    }
    Output(const Output &) = delete;
};

// loss(x [B, D], offset [B+1] int64, id int32). The loss must reach backward as it is: a factor would miss the update.
struct Loss : torch::autograd::Function<Loss> {
    static torch::Tensor forward(torch::autograd::AutogradContext *context, torch::Tensor x, torch::Tensor offset, torch::Tensor id,
                                 Output *output)
    {
        const haste_lists positives = { offset.data_ptr<int64_t>(), id.data_ptr<int32_t>() };
        double loss;
        x = x.detach().to(torch::kFloat32).contiguous();
        auto grad_x = torch::zeros_like(x);
        check(haste_train_step(&output->layer, &output->work, x.data_ptr<float>(), (int32_t)x.size(0), &positives, &output->step,
                               &loss, grad_x.data_ptr<float>(), &error));
        context->save_for_backward({ grad_x });
        return torch::tensor(loss, torch::kFloat32);
    }
    static torch::autograd::variable_list backward(torch::autograd::AutogradContext *context, torch::autograd::variable_list grad)
    {
        TORCH_CHECK(grad[0].item<float>() == 1, "the loss was scaled after the update");
        return { context->get_saved_variables()[0], torch::Tensor(), torch::Tensor(), torch::Tensor() };
    }
};

int main()
{
    const int64_t labels = 200, words = 20, D = 64, B = 64;
    torch::manual_seed(1);
    Output output((int32_t)labels, (int32_t)D);
    torch::nn::Sequential encoder(torch::nn::Linear(words, 2 * D), torch::nn::ReLU(), torch::nn::Linear(2 * D, D));
    torch::optim::Adam optimizer(encoder->parameters(), .003);
    const auto kinds = torch::randn({ labels, words });   // what samples of a label look like
    auto id = torch::randint(labels, B).to(torch::kInt32);
    const auto sample = [&] { return kinds.index_select(0, id) + .3 * torch::randn({ B, words }); };
    for (int step = 0; step < 600; step++) {
        id = torch::randint(labels, B).to(torch::kInt32);
        output.step.lr = .02f * (float)haste_schedule(step + 1, 30, 601, 0);
        const auto loss = Loss::apply(encoder->forward(sample()), torch::arange(B + 1), id, &output);
        optimizer.zero_grad();
        loss.backward();
        optimizer.step();
        if (step % 150 == 0 || step == 599) printf("step %3d  loss %.3f\n", step, loss.item<double>());
    }
    torch::NoGradGuard no_grad;
    auto best = torch::empty({ B, 1 }, torch::kInt32);
    check(haste_top_k(&output.layer, &output.work, encoder->forward(sample()).contiguous().data_ptr<float>(), (int32_t)B, 1, nullptr,
                      best.data_ptr<int32_t>(), nullptr, &error));
    const auto right = best.squeeze(1).eq(id).sum().item<int64_t>();
    printf("right: %d of %d\n", (int)right, (int)B);
    return right > B / 2 ? 0 : 1;
}
