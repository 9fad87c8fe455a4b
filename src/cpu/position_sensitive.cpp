// The position-sensitive operators on CPU: sums over the cells of a bin, and their derivatives.
#include "position_sensitive.h"

#include <array>
#include <vector>

#include "backend.h"

namespace roidl::cpu {

namespace {

template <class T, class ProblemType>
void forward(const ProblemType& problem) {
  using A = accumulator<T>;
  const auto tables = make_taps<A>(problem, TapsFor::forward);
  compute_pooled<T>(problem, *tables, [] {
    return [cells = Cells<A>()](const TapsRoi<A>& roi, const Unit& unit, const MapView& map,
                                const T* plane, int64_t stride, A* sums) mutable {
      cells.set(roi.y, unit.p, roi.x, unit.q, map);
      cells.sum_values(plane, stride, unit.stop - unit.first, sums);
    };
  });
}

template <class T, class ProblemType>
void backward(const ProblemType& problem) {
  using A = accumulator<T>;
  const auto tables = make_taps<A>(problem, TapsFor::forward);
  compute_gradient<T>(problem, *tables,
                      [](const TapsRoi<A>& roi, const Unit& unit, const MapView& map, auto& cells) {
                        cells[0].set(roi.y, unit.p, roi.x, unit.q, map);
                      });
}

// The derivatives of a bin along edge 0 or 1 of both axes, or along the direction of the box (0).
template <class A>
struct EdgeCells {
  Cells<A> y, x;

  void set(const TapsRoi<A>& roi, int edge, const Unit& unit, const MapView& map) {
    y.set(roi.y_derivative[edge], unit.p, roi.x, unit.q, map);
    x.set(roi.y, unit.p, roi.x_derivative[edge], unit.q, map);
  }
};

template <class T>
void jvp_boxes(const RoiAlignProblem& problem) {
  using A = accumulator<T>;
  const auto tables = make_taps<A>(problem, TapsFor::jvp_boxes);
  compute_pooled<T>(problem, *tables, [] {
    return [cells = EdgeCells<A>()](const TapsRoi<A>& roi, const Unit& unit, const MapView& map,
                                    const T* plane, int64_t stride, A* sums) mutable {
      const int64_t count = unit.stop - unit.first;
      A along_x[kSums];
      cells.set(roi, 0, unit, map);
      cells.y.sum_differences(plane, stride, count, map.h, sums);
      cells.x.sum_differences(plane, stride, count, map.w, along_x);
      for (int64_t c = 0; c < count; ++c) sums[c] += along_x[c];
    };
  });
}

template <class T>
void jvp_boxes_backward(const RoiAlignProblem& problem) {
  using A = accumulator<T>;
  const auto tables = make_taps<A>(problem, TapsFor::jvp_boxes_backward);
  compute_gradient<T>(problem, *tables,
                      [](const TapsRoi<A>& roi, const Unit& unit, const MapView& map, auto& cells) {
                        cells[0].set(roi.y_derivative[0], unit.p, roi.x, unit.q, map);
                        cells[1].set(roi.y, unit.p, roi.x_derivative[0], unit.q, map);
                      });
}

// To x1, y1, x2, y2 of every row; a task owns some RoIs.
template <class T>
void backward_boxes(const RoiAlignProblem& problem, double* rows) {
  using A = accumulator<T>;
  const auto tables = make_taps<A>(problem, TapsFor::boxes);
  const SortedRois rois = sort_rois(problem, *tables);
  const Units units = units_of<T>(problem);
  const double work = static_cast<double>(problem.rois) * static_cast<double>(problem.channels) *
                      8 * kNanosecondsPerResult;
  parallel(problem.rois, work, [&](Tasks& tasks) {
    ThreadBatch batch(rois);
    batch.stop = problem.rois;
    const RoiList list{rois.windows.data(), &batch, 0};
    EdgeCells<A> cells;
    A along_y[kSums], along_x[kSums];
    for (int64_t i; tasks.next(i);) {
      const auto& roi = static_cast<const TapsRoi<A>&>(*list[i]);
      const MapView& map = problem.maps[roi.map].features;
      double* const sums = rows + 4 * roi.row;
      for (int64_t u = 0; u < units.count(); ++u) {
        const Unit unit = units[u];
        const int64_t count = unit.stop - unit.first, stride = units.bins() * map.c;
        const T* const plane = plane_of<const T>(map, roi.image, units.map_channel(unit));
        const T* const pooled = static_cast<const T*>(problem.pooled.data) +
                                problem.pooled.offset(roi.row) + unit.offset(problem.pooled);
        for (int edge = 0; edge < 2; ++edge) {
          cells.set(roi, edge, unit, map);
          cells.y.sum_differences(plane, stride, count, map.h, along_y);
          cells.x.sum_differences(plane, stride, count, map.w, along_x);
          for (int64_t c = 0; c < count; ++c) {
            const A grad = static_cast<A>(pooled[c * problem.pooled.c]);
            sums[2 * edge] += static_cast<double>(grad * along_x[c]);
            sums[2 * edge + 1] += static_cast<double>(grad * along_y[c]);
          }
        }
      }
    }
  });
}

}  // namespace

void ps_roi_align_forward(const PsRoiAlignProblem& problem) {
  const RoiAlignProblem align = as_roi_align(problem);
  visit_float(problem.dtype, [&](auto type) { forward<typename decltype(type)::type>(align); });
}

void ps_roi_align_backward(const PsRoiAlignProblem& problem) {
  const RoiAlignProblem align = as_roi_align(problem);
  visit_float(problem.dtype, [&](auto type) { backward<typename decltype(type)::type>(align); });
}

void ps_roi_align_backward_boxes(const PsRoiAlignProblem& problem) {
  const RoiAlignProblem align = as_roi_align(problem);
  std::vector<double> rows(static_cast<size_t>(problem.rois) * 4);
  if (problem.rois > 0 && problem.channels > 0)
    visit_float(problem.dtype, [&](auto type) {
      backward_boxes<typename decltype(type)::type>(align, rows.data());
    });
  store_box_gradients(problem.boxes, rows.data(), problem.boxes_gradient);
}

void ps_roi_align_jvp_boxes(const PsRoiAlignProblem& problem) {
  const RoiAlignProblem align = as_roi_align(problem);
  visit_float(problem.dtype, [&](auto type) { jvp_boxes<typename decltype(type)::type>(align); });
}

void ps_roi_align_jvp_boxes_backward(const PsRoiAlignProblem& problem) {
  const RoiAlignProblem align = as_roi_align(problem);
  visit_float(problem.dtype,
              [&](auto type) { jvp_boxes_backward<typename decltype(type)::type>(align); });
}

void ps_roi_pool_forward(const PsRoiPoolProblem& problem) {
  visit_float(problem.dtype, [&](auto type) { forward<typename decltype(type)::type>(problem); });
}

void ps_roi_pool_backward(const PsRoiPoolProblem& problem) {
  visit_float(problem.dtype, [&](auto type) { backward<typename decltype(type)::type>(problem); });
}

}  // namespace roidl::cpu
