// A second device, "card", for a machine that has a CPU alone. Its tensors lie in the CPU's memory and every operation on
// them is the CPU's, but as on a real card none takes tensors of both, nor draws from the other's generator: what forgets
// to move a tensor fails here as it would on CUDA. Loaded by sitecustomize.py, tested by test_second_device.py.
#include <ATen/EmptyTensor.h>
#include <ATen/Functions.h>
#include <ATen/core/Generator.h>
#include <ATen/detail/PrivateUse1HooksInterface.h>
#include <ATen/native/CPUFallback.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>
#include <c10/core/impl/alloc_cpu.h>
#include <torch/library.h>

namespace {

using at::IntArrayRef;
using at::Tensor;
constexpr auto kCard = c10::DeviceType::PrivateUse1;

struct Memory final : c10::Allocator {
  c10::DataPtr allocate(size_t bytes) override {
    void* data = c10::alloc_cpu(bytes);
    return {data, data, &c10::free_cpu, c10::Device(kCard, 0)};
  }
  c10::DeleterFnPtr raw_deleter() const override { return &c10::free_cpu; }
  void copy_data(void* to, const void* from, std::size_t count) const override { default_copy_data(to, from, count); }
};
Memory memory;
REGISTER_ALLOCATOR(kCard, &memory)

struct Guard final : c10::impl::NoOpDeviceGuardImpl<kCard> {
  c10::Device getDevice() const override { return {kCard, 0}; }
  c10::Device exchangeDevice(c10::Device) const override { return {kCard, 0}; }
  c10::Stream getStream(c10::Device device) const noexcept override { return c10::Stream(c10::Stream::DEFAULT, device); }
  c10::Stream getDefaultStream(c10::Device device) const override { return c10::Stream(c10::Stream::DEFAULT, device); }
  c10::Stream exchangeStream(c10::Stream stream) const noexcept override { return stream; }
};
C10_REGISTER_GUARD_IMPL(PrivateUse1, Guard)

struct Hooks final : at::PrivateUse1HooksInterface {
  bool isBuilt() const override { return true; }
  bool isAvailable() const override { return true; }
  bool hasPrimaryContext(c10::DeviceIndex) const override { return true; }
  c10::DeviceIndex deviceCount() const override { return 1; }
  c10::DeviceIndex getCurrentDevice() const override { return 0; }
  void setCurrentDevice(c10::DeviceIndex) const override {}
};
const bool registered = [] { return at::RegisterPrivateUse1HooksInterface(new Hooks), true; }();

// The same memory as a tensor of the CPU.
Tensor on_cpu(const Tensor& tensor) {
  if (!tensor.device().is_privateuseone()) return tensor;
  return at::from_blob(
      tensor.data_ptr(), tensor.sizes(), tensor.strides(), tensor.options().device(c10::kCPU).memory_format({}));
}

Tensor empty(IntArrayRef size, std::optional<at::ScalarType> dtype, std::optional<at::Layout>,
             std::optional<at::Device>, std::optional<bool>, std::optional<at::MemoryFormat> format) {
  return at::detail::empty_generic(size, &memory, c10::DispatchKeySet(c10::DispatchKey::PrivateUse1),
                                   c10::dtype_or_default(dtype), format);
}

Tensor empty_strided(IntArrayRef size, IntArrayRef stride, std::optional<at::ScalarType> dtype,
                     std::optional<at::Layout>, std::optional<at::Device>, std::optional<bool>) {
  return at::detail::empty_strided_generic(size, stride, &memory, c10::DispatchKeySet(c10::DispatchKey::PrivateUse1),
                                           c10::dtype_or_default(dtype));
}

Tensor copy_from(const Tensor& from, const Tensor& to, bool) {
  on_cpu(to).copy_(on_cpu(from));
  return to;
}

// What an operation of the CPU has found comes back by this, into views too, whose strides must stay.
Tensor copy_from_and_resize(const Tensor& from, const Tensor& to) {
  to.resize_(from.sizes());
  return copy_from(from, to, false);
}

at::Scalar scalar(const Tensor& tensor) { return on_cpu(tensor).item(); }

Tensor alias(const Tensor& tensor, IntArrayRef size, IntArrayRef stride, int64_t offset) {
  auto view = at::detail::make_tensor<c10::TensorImpl>(c10::TensorImpl::VIEW, c10::Storage(tensor.storage()),
                                                       tensor.key_set(), tensor.dtype());
  view.unsafeGetTensorImpl()->set_sizes_and_strides(size, stride, offset);
  return view;
}

Tensor as_strided(const Tensor& tensor, IntArrayRef size, IntArrayRef stride, std::optional<int64_t> offset) {
  return alias(tensor, size, stride, offset.value_or(tensor.storage_offset()));
}

Tensor view(const Tensor& tensor, IntArrayRef size) {  // the CPU knows which strides that has, or that there are none
  auto seen = on_cpu(tensor).view(size);
  return alias(tensor, seen.sizes(), seen.strides(), tensor.storage_offset());
}

Tensor reshape_alias(const Tensor& tensor, IntArrayRef size, IntArrayRef stride) {
  return alias(tensor, size, stride, tensor.storage_offset());
}

Tensor unfold(const Tensor& tensor, int64_t dimension, int64_t size, int64_t step) {
  auto seen = on_cpu(tensor).unfold(dimension, size, step);
  return alias(tensor, seen.sizes(), seen.strides(), tensor.storage_offset());
}

const Tensor& resize(const Tensor& tensor, IntArrayRef size, std::optional<at::MemoryFormat>) {
  if (tensor.sizes() == size) return tensor;
  auto* impl = tensor.unsafeGetTensorImpl();
  impl->set_sizes_contiguous(size);
  auto bytes = (impl->storage_offset() + impl->numel()) * impl->itemsize();
  if (bytes > impl->storage().nbytes()) {
    auto& storage = const_cast<c10::Storage&>(impl->storage());
    storage.set_data_ptr_noswap(memory.allocate(bytes));
    storage.set_nbytes(bytes);
  }
  return tensor;
}

Tensor& set_part(Tensor& tensor, c10::Storage storage, int64_t offset, IntArrayRef size, IntArrayRef stride) {
  tensor.unsafeGetTensorImpl()->set_storage_keep_dtype(std::move(storage));
  tensor.unsafeGetTensorImpl()->set_sizes_and_strides(size, stride, offset);
  return tensor;
}

Tensor& set_whole(Tensor& tensor, c10::Storage storage) {
  const auto length = static_cast<int64_t>(storage.nbytes() / tensor.itemsize());
  return set_part(tensor, std::move(storage), 0, {length}, {1});
}

// Not in channels_last: backwards, with fewer than 8 channels and strides of 2, torch 2.15 then writes beyond its memory
// on processors without AVX-512.
Tensor to_convolve(const Tensor& tensor) { return on_cpu(tensor).clone(at::MemoryFormat::Contiguous); }

Tensor convolution(const Tensor& input, const Tensor& weight, const std::optional<Tensor>& bias, IntArrayRef stride,
                   IntArrayRef padding, IntArrayRef dilation, bool transposed, IntArrayRef output_padding,
                   int64_t groups) {
  for (const auto& other : {weight, bias.value_or(Tensor())})
    TORCH_CHECK(!other.defined() || other.device() == input.device(), "tensors on two devices in a convolution");
  std::optional<Tensor> biased;
  if (bias && bias->defined()) biased = on_cpu(*bias);
  return at::convolution(to_convolve(input), to_convolve(weight), biased, stride, padding, dilation, transposed,
                         output_padding, groups)
      .to(input.device());
}

std::tuple<Tensor, Tensor, Tensor> convolution_backward(
    const Tensor& grad, const Tensor& input, const Tensor& weight, IntArrayRef stride, IntArrayRef padding,
    IntArrayRef dilation, bool transposed, IntArrayRef output_padding, int64_t groups, std::array<bool, 3> wanted) {
  TORCH_CHECK(grad.device() == input.device() && weight.device() == input.device(), "tensors on two devices");
  auto [of_input, of_weight, of_bias] = at::convolution_backward(
      to_convolve(grad), to_convolve(input), to_convolve(weight), IntArrayRef{grad.size(1)}, stride, padding, dilation,
      transposed, output_padding, groups, wanted);
  auto back = [&](const Tensor& found) { return found.defined() ? found.to(input.device()) : found; };
  return {back(of_input), back(of_weight), back(of_bias)};
}

// Any other operation: the CPU's, if all that it takes lies on one device. CUDA takes numbers and indices of the CPU.
void on_one_device(const c10::OperatorHandle& op, torch::jit::Stack* stack) {
  const auto& schema = op.schema();
  const bool indexes = schema.name().rfind("aten::index", 0) == 0 || schema.name().rfind("aten::_index_put", 0) == 0;
  auto check = [&](const Tensor& tensor) {
    TORCH_CHECK(!tensor.defined() || tensor.dim() == 0 || !tensor.device().is_cpu(),
                "Expected all tensors to be on the same device, found one of the CPU in ", schema.name());
  };
  for (const auto& argument : torch::jit::last(*stack, schema.arguments().size())) {
    if (argument.isTensor()) check(argument.toTensor());
    if (argument.isTensorList())
      for (const auto& tensor : argument.toTensorVector()) check(tensor);
    if (argument.isOptionalTensorList() && !indexes)
      for (const std::optional<Tensor>& tensor : argument.toOptionalTensorVector())
        if (tensor) check(*tensor);
    TORCH_CHECK(!argument.isGenerator() || !argument.toGenerator().defined(), "a generator of another device in ",
                schema.name());
  }
  at::native::cpu_fallback(op, stack);
}

}  // namespace

TORCH_LIBRARY_IMPL(aten, PrivateUse1, m) {
  m.impl("empty.memory_format", empty);
  m.impl("empty_strided", empty_strided);
  m.impl("_copy_from", copy_from);
  m.impl("_copy_from_and_resize", copy_from_and_resize);
  m.impl("_local_scalar_dense", scalar);
  m.impl("as_strided", as_strided);
  m.impl("view", view);
  m.impl("_reshape_alias", reshape_alias);
  m.impl("unfold", unfold);
  m.impl("resize_", resize);
  m.impl("set_.source_Storage", set_whole);
  m.impl("set_.source_Storage_storage_offset", set_part);
  m.impl("convolution_overrideable", convolution);
  m.impl("convolution_backward_overrideable", convolution_backward);
}

TORCH_LIBRARY_IMPL(_, PrivateUse1, m) { m.fallback(torch::CppFunction::makeFromBoxedFunction<&on_one_device>()); }
