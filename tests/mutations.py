"""Mutation check: each one-line defect below, applied to a copy of the package, must make the tests beside it fail.

    python tests/mutations.py                 all of them
    python tests/mutations.py NAME NAME ...   only these

Prints a table and exits 1 where a defect survives. The working tree is left alone.
"""

import os
import shutil
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
BASE, TRAINING, DIAG = "methods/base.py", "training.py", "diagnostics.py"
METHODS = "test_methods.py"
STORED, MADE_BY = (
    "test_store.py::test_",
    "test_runs.py::test_the_commit_is_that_of_the_checkout_the_package_is_part_of",
)
OWN, RULES, IDENTITY = "owncode.py", "test_owncode.py::test_", "test_identity.py::test_"
EDIT, DEFAULT = (
    RULES + "an_edit_of_anything_a_rule_uses_is_another_rule",
    IDENTITY + "a_changed_default_gets",
)
DEFAULT += "_a_new_id_and_old_records_keep_theirs"
SCRIPT = "test_training.py::test_twenty_steps_equal_a_plain_torch_script"
RECORDED = "test_training.py::test_a_recorded_step_hears_all_that_changes_between_steps"
COMPANY = "test_training.py::test_a_member_equals_its_solo_run_in_any_order_and_company"
PHASES = "test_company.py::test_members_in_different_phases_are_as_they_are_alone"
SIDE = "test_training.py::test_members_side_by_side_run_at_once_but_for_the_step_that_compiles"

MUTATIONS = {  # name: (file in faeval_core, old text, new text, tests of which one has to fail)
    "credit-sign": (BASE, '            + self.pu', '            - self.pu', METHODS),
    "credit-level": (BASE, "return credit[1:] if", "return credit[:-1] if", METHODS),
    "no-batch-mean": (BASE, "self.heard(credit)]) / batch", "self.heard(credit)])", METHODS),
    "no-detach": (BASE, "hs.append(h.detach() if local else h)", "hs.append(h)", METHODS),
    "rms-axes": (BASE, 'if how == "batch_rms" else rms(a)', 'if how != "batch_rms" else rms(a)', METHODS),
    "penalty-mean-sum": (BASE, 'self.cfg.penalty_reduction == "mean"', 'self.cfg.penalty_reduction == "sum"', METHODS),
    "exact-embedding": (BASE, "fixed, hs, y, 0).detach()", "fixed, hs, y, 1).detach()", METHODS),
    "error-sign": ("models/base.py", 'ts, -1) -', 'ts, -1) +', METHODS),
    "fa-transposed": ("methods/fa.py", 's["feedback"][l] if', 's["feedback"][l].T if', METHODS),
    "fa-level": ("methods/fa.py", "hs[l], a[-1])", "hs[l], a[0])", METHODS),
    "dfa-scale": ("methods/dfa.py", "/ classes**0.5", "/ classes", "test_training.py::test_initial_weights_are_torchs_defaults"),
    "frozen-thaws": ("methods/bp.py", 'and not name.startswith("blocks.")', "", METHODS),
    "schedule": (TRAINING, "math.pi * self.epoch / cfg.epochs", "math.pi * (self.epoch + 1) / cfg.epochs", SCRIPT),
    "shared-batches": (TRAINING, "pixels.draws(c.seed,", "pixels.draws(cfg.seed,", COMPANY),
    "shared-lr": (TRAINING, "= c.lr * rate", "= cfg.lr * rate", COMPANY),
    "rate-recorded": (TRAINING, "moving, self.lr[m]", "moving, self.lr[m].item()", SCRIPT),
    "recorded-for-good": (TRAINING, "if self.steps_of != (steps_of :=", "if None is self.steps_of != (steps_of :=", RECORDED),
    "flip-dropped": (TRAINING, "take[3] if cfg.augment else None", "None", SCRIPT),
    "no-momentum": (TRAINING, 'rest = {\n                "momentum": cfg.momentum,\n                "dampening": 0.0,\n                "nesterov": False,\n                "is_first_step": False,\n            ', 'rest = {"momentum": 0.0, "dampening": 0.0, "nesterov": False, "is_first_step": False', SCRIPT),
    "no-decay": (TRAINING, '"weight_decay": group.weight_decay, "maximize"', '"weight_decay": 0.0, "maximize"', SCRIPT),
    "strided-mean": (TRAINING, "losses[:, m].contiguous().mean()", "losses[:, m].mean()", "test_runs.py"),
    "optimizer-lost": (TRAINING, '}": v[m]', '}": v[m].clone()', "test_runs.py"),
    "overflow-unseen": (TRAINING, "(~losses[:, m].isfinite())", "(~losses[:0, m].isfinite())", "test_runs.py"),
    "progress-early": ("runs.py", "bar.update(len(group) - len(busy))", "bar.update(len(wanted) - bar.n)", "test_engines.py"),
    "shared-noise": (TRAINING, "batch, self.generators[m])", "batch, self.generators[0])", "test_credit.py"),
    "frozen-mean": ("protocol.py", "frozen.get(r.config.seed, mean)", "mean",
                    "test_protocol.py::test_depth_is_judged_against_the_frozen_net_of_the_same_seed"),
    "mixed-checkpoints": ("worker.py", 'if all(kept) and len(begun) == 1 and max(begun) <= next_wanted:',
                          "if kept := [k for k in kept if k]:", "test_runs.py"),
    "upstream-dropped": ("worker.py", "[start_weights(c, store) for c in configs]", "None", "test_runs.py"),
    "crop-swapped": ("data.py", "dy * down + dx * right", "dx * down + dy * right", "test_data.py"),
    "flip-vertical": ("data.py", "x.flip(-1)", "x.flip(-2)", "test_data.py"),
    "seventh-crop": ("data.py", "torch.randint(0, 2 * PADDING + 1,", "torch.randint(0, 2 * PADDING,", "test_data.py"),
    "cosine-clamped": (DIAG, '    # squares of 1e-200 would underflow even here\n    u, v = (w / w.abs().amax(-1, keepdim=True) for w in (u.double(), v.double()))',
                       '    return cosine_clamped(u.double(), v.double())  # squares of 1e-200 would underflow even here', "test_diagnostics.py"),
    "pearson-centre": (DIAG, "told - told.mean(0)", "told", "test_diagnostics.py"),
    "gamma-level": (DIAG, '    # `block`: what trains block l against g_l\n    same, block = list(zip(a, gs)), list(zip(method.heard(a), gs))', '    same, block = list(zip(a, gs)), list(zip(a, gs))  # `block`: what trains block l against g_l', "test_diagnostics.py"),
    "norm-of-batch": (DIAG, "vectors(t).double().norm(dim=-1)", "vectors(t).double().norm(dim=0)", "test_diagnostics.py"),
    "nudge-sign": (DIAG, "h - eta * step", "h + eta * step", "test_diagnostics.py"),
    "stability-level": (DIAG, "method.model.depth // 2]", "method.model.depth]", "test_diagnostics.py"),
    "checksum": ("store.py", 'if _checksum(told) != raw["checksum"]:', "if False:", "test_store.py"),
    "digest": ("store.py", 'if _digest(tensors) != meta["digest"]:', "if False:", "test_store.py"),
    "nan-in-json": ("files.py", "allow_nan=False", "allow_nan=True", "test_store.py"),
    "torn-write": ("files.py", "os.replace(temporary, path)", "path.write_bytes(Path(temporary).read_bytes())", "test_store.py"),
    "stale-average": ("methods/cb.py", 'torch.lerp(p[k].detach(), v, s["ema"])', "v.clone()", "test_credit.py"),
    "soft-minimum": ("methods/cb.py", " - math.log(copies)", "", "test_credit.py"),
    "half-difference": ("methods/vec.py", "(1 if one else 2)", "1", "test_credit.py"),
    "ep-sign": ("methods/ep.py", "[-r / b for r", "[r / b for r", "test_credit.py"),
    "blend-weight": ("methods/learned.py", "(1 - w) * dfa", "dfa", "test_credit.py"),
    "last-blocks": ("methods/learned.py", '(cfg.credit_level == "output") - o["last"]', '0 - o["last"]', "test_credit.py"),
    "shared-eta": (BASE, 's["eta"] * normalise', "self.cfg.eta * normalise", "test_training.py"),
    "kp-unlearned": ("methods/fa.py", '(p[f"aux.{k}"] - p[f"aux.{k}"].detach())', "0", "test_credit.py"),
    "bn-biased": ("models/convnet.py", "* n / (n - 1)", "", "test_models.py"),
    "exploit-clamp": ("exploit.py", "g.clamp(-CLAMP, CLAMP) if clamp else g", "g", "test_exploit.py"),
    "frozen-drifts": (TRAINING, "elif self.configs[0].train_net:", "else:", "test_models.py"),
    "compiled-by-all": (TRAINING, "lock = threading.Lock()", "lock = nullcontext()", SIDE),
    "one-runs-ahead": (TRAINING, "waiting.put((done + 1, m))", "waiting.put((0, m))", SIDE),
    "counted-for-all": (TRAINING, "self.steps[m] += moving", "self.steps += moving", COMPANY),
    "clip-amplifies": (TRAINING, ".clamp(max=1)", "", SCRIPT),
    "lead-sign": ("tables.py", "pair[0] - pair[1]", "pair[1] - pair[0]",
                  "test_protocol.py::test_a_learned_credit_is_read_beside_dfas_on_the_same_net"),
    "lock-for-all": ("store.py", "yield held.is_locked", "yield True", "test_cli.py"),
    "ep-frontier": ("methods/ep.py", "max(0, top - step)", "max(0, top - step + 1)", "test_credit.py"),
    "bf16-ignored": (TRAINING, "if self.onednn else found", "if False else found", "test_training.py"),
    "uneven-shares": ("plan.py", "int(share / costs[group[0]])", "int(2 * share / costs[group[0]])", "test_engines.py"),
    "sd-of-n": ("stats.py", "v.std(ddof=1)", "v.std(ddof=0)",
                "test_protocol.py::test_intervals_are_students_and_sd_has_n_minus_one"),
    "minority-verdict": ("protocol.py", "2 * self.counts[k][0] >", "3 * self.counts[k][0] >",
                         "test_protocol.py::test_a_verdict_is_the_majority_of_the_seeds_in_which_it_is_defined"),
    "open-scheduler": ("engines.py", 'protocol="tls://", security=_secured(), **pages', 'protocol="tcp://", **pages',
                       "test_engines.py::test_nobody_without_the_certificate_reaches_what_dask_opens"),
    "open-pages": ("engines.py", 'options | {"dashboard": False, "dashboard_address": "127.0.0.1:0"}', "options",
                   "test_engines.py::test_nobody_without_the_certificate_reaches_what_dask_opens"),
    "readable-key": ("engines.py", "os.O_EXCL, 0o600)", "os.O_EXCL, 0o644)",
                     "test_engines.py::test_nobody_without_the_certificate_reaches_what_dask_opens"),
    "orphans": ("engines.py", "    multiprocessing.parent_process().join()", "    threading.Event().wait()",
                "test_engines.py::test_workers_end_with_their_parent"),
    "workers-go-on": ("engines.py", "                process.kill()", "                pass",
                      "test_engines.py::test_an_interrupt_ends_workers_and_drops_what_is_queued"),
    "lost-for-good": ("engines.py", "return killed or isinstance(error, BrokenExecutor)", "return killed",
                      "test_engines.py::test_a_broken_pool_does_not_bring_its_runs_here"),
    "endless-wait": ("environment.py", "if not 0 <= seconds < math.inf:", "if not 0 <= seconds:",
                     "test_environment.py::test_seconds_to_wait"),
    "switch-unread": ("environment.py", "return SWITCHES.get(text, True)", 'return text != "0"', "test_environment.py"),
    "threads-unread": ("environment.py", r"[1-9]\d*(\s*", r"\w+(\s*", "test_environment.py"),
    "lock-litter": ("store.py", "                    path.unlink()", "                    pass", "test_files.py"),
    "errors-unnamed": ("files.py", "        raise explained(e, path) from e\n    return path", "        raise\n    return path",
                       "test_files.py"),
    "kernel-left": ("kernels.py", "            process.kill()\n            process.wait()", "            pass",
                    "test_pipeline.py::test_an_interrupt_leaves_no_kernel"),
    "values-unchecked": ("pipeline.py", "                check_value(name, value)", "                pass",
                         "test_pipeline.py::test_mistakes_are_found_before_launch"),
    "prints-apart": ("pipeline.py", '.rpartition("\\r")[2]', "", "test_pipeline.py::test_prints_of_a_cell_become_one"),
    "page-unchecked": ("audit.py", "        check_writable(html)", "        pass",
                       "test_cli.py::test_a_mistake_ends_in_one_line_that_names_the_way_out"),
    "ascii-fails": ("terminal.py", 'stream.reconfigure(errors="faeval")', "pass",
                    "test_cli.py::test_a_terminal_of_ascii_shows_everything"),
    "memory-unnamed": ("worker.py", '  raise MemoryError(\n            f"no memory', '  raise ValueError(\n            f"a fault',
                       "test_cli.py::test_a_net_too_large_for_any_memory_ends_in_one_line"),
    "name-unchecked": ("data.py", "or not NAME.fullmatch(name)", "or not name",
                       "test_images.py::test_a_name_that_is_none_is_refused_and_writes_nothing"),
    "synthetic-name-taken": ("data.py", "name in BUILT_IN or synthetic.is_synthetic(name)", "name in BUILT_IN",
                             "test_images.py::test_a_name_that_is_none_is_refused_and_writes_nothing"),
    "wide-clipped": ("images.py", "(values >> 8)", "values.clip(0, 255)",
                     "test_images.py::test_16_bits_of_grey_are_scaled_to_the_full_range"),
    "floats-unscaled": ("images.py", "np.rint(values * 255)", "np.rint(values)",
                        "test_images.py::test_floats_are_read_in_0_to_1_and_refused_elsewhere"),
    "grey-tripled": ("images.py", 'return image.convert("L" if mode', 'return image.convert("RGB" if mode',
                     "test_images.py::test_a_greyscale_set_keeps_its_one_channel"),
    "alpha-unsaid": ("images.py", 'done.counts["alpha"] += image', 'done.counts["opaque"] += image',
                     "test_images.py::test_what_is_converted_is_counted_by_kind_in_one_line"),
    "flat-channel": ("images.py", "if sd == 0:", "if False:",
                     "test_images.py::test_a_channel_without_spread_is_refused_by_name"),
    "any-format": ("images.py", "formats=FORMATS)", "formats=None)",
                   "test_images.py::test_postscript_under_an_images_name_never_reaches_ghostscript"),
    "pillow-escapes": ("images.py", "except Exception as e:", "except OSError as e:",
                       "test_images.py::test_whatever_pillow_raises_the_file_is_named"),
    "second-tree": ("trees.py", "return [p for p in long if p[:depth] == root and p[depth] in names]",
                    "return [p for p in long if p[-3] in names]",
                    "test_images.py::test_a_second_tree_below_the_first_is_left_out_and_said"),
    "test-not-first": ("trees.py", 'TESTS = ("test", "validation", "val")', 'TESTS = ("val", "validation", "test")',
                       "test_images.py::test_validation_images_stand_in_for_test_images"),
    "links-unfollowed": ("trees.py", "        if entry.is_dir():", "        if entry.is_dir(follow_symlinks=False):",
                         "test_images.py::test_links_to_folders_are_followed_and_said"),
    "cut-unseen": ("trees.py", "if len(mark) < 2 * tarfile.BLOCKSIZE or any(mark):", "if any(mark):",
                   "test_images.py::test_a_cut_archive_is_refused"),
    "header-unseen": ("trees.py", "        _check_end(archive)", "        pass",
                      "test_images.py::test_a_damaged_header_is_not_taken_for_the_end"),
    "checksum-unread": ("trees.py", "while rest := archive", "while rest := b'' and archive",
                        "test_images.py::test_a_cut_archive_is_refused"),
    "all-is-read": ("trees.py", "for path in sorted(wanted))", "for path in sorted(found.files))",
                    "test_images.py::test_large_files_beside_the_images_are_not_read"),
    "few-registered": ("data.py", "if min(train, test) < BATCH:", "if train < BATCH:",
                       "test_images.py::test_too_few_images_are_refused_before_any_is_decoded"),
    "nan-constants": ("data.py", "if not least <= v <= 1:", "if v < least or v > 1:",
                      "test_images.py::test_constants_outside_of_0_to_1_are_refused"),
    "half-a-file": ("files.py", "with open(temporary, \"wb\") as f:", "with open(temporary := path, \"wb\") as f:",
                    "test_images.py::test_a_fault_while_writing_names_path_and_way_out_and_leaves_the_old_copy"),
    "test-scaled-apart": ("arrays.py", "mean, std = train.mean(0), train.std(0)", "mean, std = test.mean(0), test.std(0)",
                          "test_data.py::test_features_are_standardised_by_the_training_rows"),
    "flat-feature": ("arrays.py", "constant = train.min(0) == train.max(0)", "constant = train.std(0) == 0",
                     "test_data.py::test_features_are_standardised_by_the_training_rows"),
    "list-unchecked": ("files.py", "if not isinstance(found.get(k), list)]", "if k not in found]",
                       "test_data.py::test_a_summary_without_one_of_its_lists_is_named_by_who_needs_it"),
    "conflict-unnamed": ("files.py", "except (ValueError, RecursionError) as e:", "except RecursionError as e:",
                         "test_data.py::test_a_damaged_committed_file_is_named_with_the_way_out"),
    "holm-alone": ("stats.py", "level = alpha / left if going else level", "level = alpha",
                   "test_protocol.py::test_claims_are_decided_together_by_holm"),
    "smallest-ignored": ("stats.py", '"holds" if low > at + self.smallest else "in sign only"', '"holds"',
                         "test_protocol.py::test_a_claim_is_decided_by_its_interval_and_the_smallest_effect_of_interest"),
    "claims-after": ("study.py", "if claims != self.told:", "if False:",
                     "test_protocol.py::test_what_is_printed_is_what_is_noted"),
    "one-net-unsaid": ("stats.py", 'if self.of else f"n=', 'if False else f"n=',
                       "test_protocol.py::test_what_is_printed_is_what_is_noted"),
    "imprecise-agrees": ("tables.py", '"imprecise" if 2 * own > room else "agrees"', '"agrees"',
                         "test_protocol.py::test_what_counts_as_reproduced"),
    "norms-linear": ("tables.py", "mine, theirs = math.log10(mine), math.log10(theirs)", "pass",
                     "test_protocol.py::test_the_four_answers_are_apart_by_their_definition"),
    "zeros-differ": ("tables.py", "given = abs(mine - theirs) <= within", "given = False",
                     "test_protocol.py::test_what_counts_as_reproduced"),
    "calibrated-counted": ("tables.py", "(rows[~rows.calibrated], rows[rows.calibrated])", "(rows, rows[rows.calibrated])",
                           "test_protocol.py::test_every_reference_row_is_kept_and_a_misnamed_one_refused"),
    "macros-collide": ("latex.py", "for name, _ in made).items() if n > 1)", "for name, _ in made).items() if n > 2)",
                       "test_protocol.py::test_macros_of_two_notebooks_are_apart_and_a_collision_is_an_error"),
    "latex-command": ("latex.py", 'PES |= {\n    "\\\\": r"\\textbackslash{}",\n    "^": r"\\textasciicircum{}",\n    "~": r"\\textasciitilde{}",\n    "‖": r"\\(\\|\\)",\n', 'PES |= {"^": r"\\textasciicircum{}", "~": r"\\textasciitilde{}", "‖": r"\\(\\|\\)"',
                      "test_protocol.py::test_no_text_is_a_command_to_latex"),
    "nothing-rescaled": ("protocol.py", "if not rescaling_took(diagnosis):", "if False:",
                         "test_audit.py::test_b_is_undefined_where_the_stream_cannot_be_rescaled"),
    "random-fires": (DIAG, '"repeatable": alike(*asked)', '"repeatable": True',
                     "test_audit.py::test_random_credit_does_not_fire_b"),
    "feedback-left": ("models/base.py", 'writes.match(f"{k}.")', "writes.match(k)",
                      "test_audit.py::test_a_valid_exact_gradient_never_fires_b"),
    "pretender": (DIAG, "part_cosine(free, part, made)", "part_cosine(free, part, free)",
                  "test_audit.py::test_an_audit_tells_credit_that_was_shown_from_credit_that_trained"),
    "phase-of-the-first": (TRAINING, "self.method.phase_of(c, self.epoch) for c", "self.method.phase_of(cfg, self.epoch) for c",
                           PHASES),
    "mirror-unasked": (BASE, "Phase(fits=type(self).auxiliary is not LocalMethod.auxiliary)", "Phase(fits=False)",
                       "test_company.py::test_a_rule_without_trained_parameters_learns_by_what_it_changes"),
    "whole-options-lost": (TRAINING, "for k in method.member_options}",
                           "for k in method.member_options if type(cfg.options[k]) is float}",
                           "test_company.py::test_member_options_of_every_type_reach_the_state"),
    "first-members-config": (BASE, "if k not in MEMBER_FIELDS}", "if k}",
                             "test_preflight.py::test_a_field_that_members_may_differ_in_is_not_read_off_the_config"),
    "attributes-thaw": (BASE, "        if self._frozen:", "        if False:",
                        "test_preflight.py::test_an_attribute_set_while_training_is_refused"),
    "edits-unseen": ("preflight.py", "if place := moved(before, held_now()):", "if place := None:",
                     "test_preflight.py::test_what_a_rule_edits_in_place_is_named"),
    "draws-unseen": ("preflight.py", 'found["Python\'s"] = repr(random.getstate()).encode()', "pass",
                     "test_preflight.py::test_a_draw_from_a_global_generator_is_refused"),
    "double-unchecked": ("preflight.py", "    check_levels(method, credit, hs, when)", "    pass",
                         "test_preflight.py::test_credit_that_would_fail_at_the_last_diagnosis_is_refused_before_training"),
    "diagnosis-costs-all": ("worker.py", "(due or not all(measured))", "due",
                            "test_runs.py::test_a_diagnosis_that_fails_costs_nothing_that_was_trained"),
    "record-costs-all": ("worker.py", "checkpoint(c, result, ensemble.export(m))", "pass",
                         "test_runs.py::test_a_record_that_cannot_be_written_costs_nothing_that_was_trained"),
    "upstream-to-its-end": ("worker.py", "last, wanted = max(wanted, default=epochs),", "last, wanted = epochs,",
                            "test_runs.py::test_an_upstream_that_is_also_asked_for_trains_once"),
    "exploited-as-trained": (BASE, "        vars(cfg).update(changes)", "        pass",
                             "test_exploit.py::test_what_is_exploited_is_the_rule_itself_under_another_update"),
    "batched-or-not-at-all": (TRAINING, '     except Exception as e:\n                # ', '     except OSError as e:  # ',
                              "test_training.py::test_every_rule_that_trains_in_turn_trains_on_every_path"),
    "rule-globals": (OWN, "yield from self.globals_(f)", "pass", EDIT),
    "rule-parents": (OWN, "for base in cls.__mro__:", "for base in cls.__mro__[:1]:", EDIT),
    "rule-closures": (OWN, "zip(f.__code__.co_freevars, f.__closure__ or ())", "()", EDIT),
    "rule-layout": (OWN, "return isinstance(node, ast.Pass) or (", "return isinstance(node, ast.Pass) and (",
                     RULES + "comments_layout_docstrings_and_annotations_are_no_other_rule"),
    "rule-file-edited": (OWN, "if found and code in known else None", "if found else None",
                     RULES + "a_file_edited_under_the_code_in_memory_does_not_speak_for_it"),
    "rule-unnamed": ("config.py", 'object.__setattr__(self, "code", self.code_now())', 'object.__setattr__(self, "code", "")',
                     "test_owncode.py::test_an_edited_rule_trains_and_each_has_its_record"),
    "rule-changed-since": ("runs.py", "        if c.code:", "        if False:",
                           "test_owncode.py::test_a_config_of_a_rule_that_has_changed_is_refused"),
    "worker-knows-better": ("parcel.py", "METHODS.update(zip(self.methods, classes))",
                            "METHODS.update(zip(self.methods, classes) if False else ())",
                            RULES + "a_module_that_has_changed_since_the_worker_imported_it_is_sent_anew"),
    "worker-unverified": ("parcel.py", "for c, sent in zip(self.configs, self.ids):", "for c, sent in ():",
                     RULES + "a_worker_with_another_rule_says_so"),
    "old-record-taken": ("store.py", "if self._vouched(old) == cfg.code else path", "if True else path",
                     RULES + "an_older_record_counts_for_the_rule_that_is_vouched_for_and_no_other"),
    "id-of-defaults": ("config.py", 'identity.FIELDS | {"model_options": {}',
                       '{f.name: f.default for f in fields(self)} | {"model_options": {}', DEFAULT),
    "id-of-options": ("config.py", "known = identity.OPTIONS.get(self.method, {} if self.code else method.options)",
                      "known = method.options", DEFAULT.replace("default", "option")),
    "record-filled-in": ("config.py", "full = {**identity.FIELDS, ", "full = {", DEFAULT),
    "minus-zero": ("config.py", '    # -0.0 is 0.0, as equal configs have equal ids\n    return abs(value) if kind is float and value == 0 else value', '    return value  # -0.0 is 0.0, as equal configs have equal ids',
                     IDENTITY + "zero_has_one_sign"),
    "options-change": ("config.py", "__setitem__ = __delitem__ = __ior__", "__delitem__ = __ior__",
                     IDENTITY + "options_behave_as_a_dict_that_cannot_be_changed"),
    "numpy-refused": ("config.py", "(v.item() if isinstance(v, np.generic) else v for v in (value, default))", "(value, default)",
                      IDENTITY + "numbers_of_numpy_are_numbers"),
    "half-an-epoch": ("config.py", "if wrong := [e for e in epochs if type(e) is not int]:", "if wrong := []:",
                     IDENTITY + "a_value_of_a_wrong_kind_is_named_with_the_way_out"),
    "seed-twice": ("study.py", "if not found or len(set(found)) < len(found):", "if not found:",
                     IDENTITY + "seeds_are_whole_numbers_each_of_them_once"),
    "run-twice": ("runs.py", "if times > 1:", "if times > 2:", IDENTITY + "run_names_what_it_cannot_run"),
    "record-replaced": ("store.py", "            self._read(path, record.config)", "            pass",
                     STORED + "a_record_of_something_else_is_neither_used_nor_replaced"),
    "newer-is-damaged": ("store.py", '  raise RecordRefused(\n                f"this version of faeval does not understand its config ({e})"\n            ', '  raise ValueError(f"this version of faeval does not understand its config ({e})"',
                     STORED + "a_record_of_something_else_is_neither_used_nor_replaced"),
    "other-images": ("store.py", "if made_on and here and made_on != here:", "if False:",
                     STORED + "a_record_of_something_else_is_neither_used_nor_replaced"),
    "left-out-silently": ("store.py", "        if left:", "        if not left:",
                     STORED + "a_damaged_record_is_recomputed_with_a_warning"),
    "header-unread": ("store.py", 'if _checksum(told) != meta.get("header"):', "if False:",
                     STORED + "no_bit_of_a_checkpoint_flips_unseen"),
    "snapshot-read-again": ("store.py", "_stamp(path) in _WHOLE or ", "",
                     STORED + "images_are_hashed_once_and_so_is_a_snapshot_that_is_asked_for"),
    "images-hashed-again": ("data.py", "    @cached_property", "    @property",
                     STORED + "images_are_hashed_once_and_so_is_a_snapshot_that_is_asked_for"),
    "hook-names-the-tree": ("provenance.py", 'if not k.startswith("GIT_")', "if k", MADE_BY),
    "commit-of-others": ("provenance.py", "if tracked is None or _read() != LOADED:", "if tracked is None:", MADE_BY),
    "rate-off-by-a-millionth": (TRAINING, "= c.lr * rate", "= c.lr * rate * (1 + 1e-6)", SCRIPT),
    "credit-off-by-a-millionth": (BASE, "return sum(inner(f, a) for f, a in pairs)",
                                  "return (1 + 1e-6) * sum(inner(f, a) for f, a in pairs)", METHODS),
    "blend-off-by-a-millionth": ("methods/learned.py", "torch.where(w > 0, w * aux, 0.0)",
                                 "torch.where(w > 0, (w + 1e-6) * aux, 0.0)",
                                 "test_credit.py::test_credit_is_the_blend_of_its_parts"),
    "average-off-by-a-millionth": ("methods/cb.py", 's["ema"])', 's["ema"] * (1 - 1e-6))',
                                   "test_credit.py::test_credit_bridge_average_follows"),
    "image-off-by-a-millionth": ("data.py", "self.scale, self.shift = 1 / (255 * std)",
                                 "self.scale, self.shift = (1 + 1e-6) / (255 * std)",
                                 "test_data.py::test_every_crop_and_flip_is_torchvisions"),
    "draws-by-default-type": ("data.py", "generator=g, dtype=torch.float32) < 0.5", "generator=g) < 0.5",
                              "test_data.py::test_draws_depend_on_seed_and_epoch_alone"),
    "run-in-float64": ("worker.py", "if (default := torch.get_default_dtype()) != torch.float32:", "if False:",
                       "test_runs.py::test_runs_are_refused_where_torch_makes_float64"),
    "datasets-unlocked": ("store.py", '        # else two processes that note new datasets at once would lose one of them\n        with self.lock("datasets"):', '        if True:  # else two processes that note new datasets at once would lose one of them',
                          "test_store.py::test_datasets_that_are_new_at_the_same_time_are_all_noted"),
    "help-waits-for-torch": ("__main__.py", "from .extras import way_out", "from . import runs\nfrom .extras import way_out",
                             "test_package.py::test_the_command_line_waits_for_nothing_before_a_command_is_named"),
    "pandas-for-all": ("store.py", "from filelock import FileLock, Timeout", "import pandas\nfrom filelock import FileLock, Timeout",
                       "test_package.py::test_importing_the_package_imports_none_of_what_only_some_need"),
    "table-left-behind": ("tables.py", 'Path(__file__).with_name("reference_results.csv")',
                          'Path(__file__).parent.with_name("reference_results.csv")',
                          "test_package.py::test_a_wheel_audits_a_rule_elsewhere_with_the_audit_extra_alone"),
    "images-for-an-audit": ("data.py", "    from sklearn.datasets import load_digits", "    import torchvision\n    from sklearn.datasets import load_digits",
                            "test_package.py::test_a_wheel_audits_a_rule_elsewhere_with_the_audit_extra_alone"),
    "extra-misnamed": ("extras.py", '"pandas", "scipy"', '"pandas", "PIL"', "test_package.py::test_what_a_function_imports_is_brought_by_the_extra_that_its_error_names"),
    "kernel-after-the-end": ("kernels.py", '            raise RuntimeError("interrupted")', "            pass",
                             "test_pipeline.py::test_no_kernel_starts_after_an_interrupt"),
    "fork-in-plain-text": ("kernels.py", "spec.metadata = spec.metadata | ", "spec.metadata = ",
                           "test_pipeline.py::test_forked_kernels_share_imports_and_nothing_else"),
    "fork-of-this-session": ("kernels.py", "    os.setsid()\n", "",
                             "test_pipeline.py::test_forked_kernels_share_imports_and_nothing_else"),
    "rows-as-they-ended": ("pipeline.py", "return [rows[i] for i in range(len(plan))]", "return [rows[i] for i in order]",
                           "test_pipeline.py::test_smoke_notebooks_run_side_by_side_and_keep_their_order"),
    "training-side-by-side": ("pipeline.py", 'if profile != "smoke" and trains:', "if False:",
                              "test_pipeline.py::test_training_at_the_studys_sizes_has_the_machine_to_itself"),
    "time-gone": ("progress.py", "for name in [*self.begun, *self.ended]) / 2", "for name in self.ended)",
                  "test_pipeline.py::test_time_left_goes_by_what_has_ended_and_half_of_what_runs"),
    "seeds-worth-alike": ("backlog.py", "1 / (1 + known[s])", "1", "test_backlog.py"),
    "start-for-nothing": ("backlog.py", "return costs.cost_flops(upstream) * epoch / upstream.epochs", "return 0.0", "test_backlog.py"),
    "start-paid-twice": ("backlog.py", "started.add((best.config.upstream, best.config.upstream_epoch))", "pass", "test_backlog.py"),
    "hours-overrun": ("backlog.py", "total <= limit for", "total - seconds[0] <= limit for", "test_backlog.py"),
    "bf16-anyhow": ("worker.py", "(times := bf16_slowdown()) > 1", "(times := bf16_slowdown()) > 20", "test_runs.py::test_a_long_run_in_bfloat16_is_refused_where_float32_is_faster"),
    "sets-walked-through": (OWN, "sorted(self.apart(v, value) for v", "sorted(self.of(v) for v", RULES + "functions_of_a_set_are_told_alike_in_any_order"),
    "looked-up-untold": (OWN, "yield from self.named(own_entries(value))", "pass", RULES + "a_rule_that_looks_another_up_is_told_by_it_and_takes_it_along"),
    "looked-up-left-behind": (OWN, "_at(*where).update(values)", "pass", RULES + "a_rule_that_looks_another_up_is_told_by_it_and_takes_it_along"),
    "globals-that-move": ("preflight.py", "if cfg.code != cfg.code_now():", "if False:", "test_preflight.py::test_a_rule_that_changes_what_it_reads_is_refused"),
    "square-feedback": ("methods/fa.py", "tuple(level) == (d,)", "len(level) == 1", "test_register_model.py"),
    "rounded-on-the-way": ("worker.py", "rounded(v) if k in SCIENCE else v", "rounded(v)", "test_runs.py::test_an_interrupted_ensemble_continues_to_the_same_records"),
    "moves-all-notebooks": ("pipeline.py", 'resources={"metadata": {"path": str(path.parent)}},\n            kernel_name="python3",', 'cwd=str(path.parent),\n            kernel_name="python3",', "test_pipeline.py::test_smoke_notebooks_run_side_by_side_and_keep_their_order"),
    "slow-records": ("costs.py", "return max(rates) *", "return min(rates) *", "test_costs.py"),
    "judged-up-to-its-state": ("judge.py", "with_first(output, state.clone())  # what", "with_first(output, state)  # what",
                               "test_judge.py::test_a_state_is_what_a_level_gives_whatever_edits_it_later"),
    "judged-in-training": ("judge.py", "        model.eval()\n", "        model.train(model.training)\n",
                           "test_judge.py::test_batch_norm_and_dropout_are_judged_in_evaluation_mode"),
    "modes-lost": ("judge.py", "            module.training = mode", "            module.training = modes[0][1]",
                   "test_judge.py::test_nothing_of_the_model_is_changed_whatever_happens"),
    "weights-moved": ("judge.py", "        kept.restore()\n", "", "test_judge.py::test_nothing_of_the_model_is_changed_whatever_happens"),
    "left-in-float64": ("judge.py", "            t.data = before", "            t.data = before.double()",
                        "test_judge.py::test_nothing_of_the_model_is_changed_whatever_happens"),
    "gradients-left": ("judge.py", "            p.grad = grad\n", "", "test_judge.py::test_nothing_of_the_model_is_changed_whatever_happens"),
    "training-credit": ("judge.py", "if moved := kept.changed():", "if moved := None:",
                        "test_judge.py::test_a_credit_that_trains_is_named_with_the_weight"),
    "attached-credit": ("judge.py", "        if a.requires_grad:", "        if False:",
                        "test_judge.py::test_credit_that_cannot_be_compared_is_named_with_its_level"),
    "zero-credit": ("judge.py", "        if not a.any():", "        if False:",
                    "test_judge.py::test_credit_that_cannot_be_compared_is_named_with_its_level"),
    "another-function": ("judge.py", "if not change <= SAME_FUNCTION:", "if False:",
                         "test_judge.py::test_the_stream_is_rescaled_where_that_changes_no_function"),
    "growth-of-some": ("judge.py", 'if not no_ratio or protocol.crosses("a", worst) else None', "if known else None",
                       "test_judge.py::test_growth_is_undefined_between_levels_of_other_shapes_unless_it_fires_elsewhere"),
    "judged-mean-loss": ("judge.py", "losses.sum() / BATCH", "losses.mean()",
                         "test_judge.py::test_the_figures_are_those_that_diagnose_takes_on_the_same_net"),
    "middle-level": ("judge.py", "(len(stack.tap.names) - 1) // 2", "len(stack.tap.names) // 2",
                     "test_judge.py::test_the_figures_are_those_that_diagnose_takes_on_the_same_net"),
    "compiled-unheard": ("judge.py", 'set_stance("force_eager")', 'set_stance("default")',
                         "test_judge.py::test_a_compiled_net_is_judged_as_it_is_before"),
    "nudges-of-parts": ("judge.py", "[len(y) * move for move in", "[move for move in",
                        "test_judge.py::test_rho_and_nudges_by_parts_are_those_of_the_whole"),
    "bottom-for-top": ("protocol.py", 'measured["b"][-1] if', 'measured["b"][0] if',
                       "test_measured.py::test_each_letter_fires_beyond_its_threshold_or_says_what_it_lacks"),
    "reason-lost": ("protocol.py", "    return {k: why[k] for k in silent}", "    return {k: why[k] for k in silent[1:]}",
                    "test_measured.py::test_any_columns_may_be_missing"),
    "percent-taken": ("measured.py", "if 0 <= value <= 1:", "if 0 <= value <= 100:",
                      "test_measured.py::test_what_no_measurement_can_be_is_named_by_its_place"),
    "column-unnamed": ("measured.py", "unused = [c for c in columns if c not in used]", "unused = []",
                       "test_measured.py::test_a_csv_file_and_a_frame_are_read_alike"),
    "foreign-baseline": ("measured.py", "known.get(net.seed, mean) if", "mean if",
                         "test_measured.py::test_frozen_rows_are_the_baseline_of_their_seed_or_by_their_mean"),
    "one-cosine-for-all": ("measured.py", "elif len(moved[0]) < 2:", "elif False:",
                           "test_measured.py::test_each_letter_fires_beyond_its_threshold_or_says_what_it_lacks"),
    "quantity-for-class": ("arrays.py", "and 2 * len(classes) > len(labels)", "and False",
                           "test_data.py::test_a_table_that_cannot_be_taken_is_refused_by_its_place"),
    "model-unchecked": ("preflight.py", "if not own(MODELS[group[0].model]):", "if False:",
                        "test_register_model.py::test_a_faulty_model_is_named_before_it_trains"),
    "model-displaced": ("models/__init__.py", "if not is_own(MODELS.get(name, cls)):", "if False:",
                        "test_register_model.py::test_what_cannot_be_registered_is_refused"),
    "status-of-strangers": ("commands.py", 'for kind in ("method", "model")', 'for kind in ("method",)',
                            "test_register_model.py::test_the_command_line_takes_a_model_from_a_file"),
    "claim-rows": ("latex.py", 'None if c["decided"] == "not run" else next(rows)', "next(rows)",
                   "test_paper.py::test_rows_count_the_claims_with_records"),
    "claim-sign": ("latex.py", "ends[::sign]", "ends", "test_paper.py::test_estimates_as_sentences_name_them"),
    "claim-digits": ("latex.py", "1 - math.floor", "-math.floor", "test_paper.py::test_a_rounded_estimate_keeps_two_digits_of_half_its_width"),
    "settings-mixed": ("latex.py", "if len(kinds) > 1:", "if not kinds:", "test_paper.py::test_settings_are_told_apart_and_exact_credit_is_paired_with_each"),
    "paper-hyphens": ("latex.py", 'return r"\\(-\\)"', 'return "-"', "test_paper.py::test_a_negative_number_has_a_minus_and_a_hyphen_stays"),
    "rows-uncalibrated": ("latex.py", "rows.verdict.where(~rows.calibrated |", "rows.verdict.where(rows.calibrated |",
                          "test_paper.py::test_rows_of_the_study_are_counted_once_each"),
    "x-not-given": (BASE, 'given = {"x": x} if hook in', 'given = {} if hook in', "test_hooks.py"),
    "learns-here": (BASE, "        if self.learns_elsewhere:\n            own_h0", "        if False:\n            own_h0", "test_hooks.py"),
    "credited-here": (DIAG, 'if getattr(method, "learns_elsewhere", False):', "if False:", "test_hooks.py"),
    "one-rate": (TRAINING, "lr if group.lr == 1 else lr * group.lr", "lr", "test_hooks.py"),
    "one-decay": (TRAINING, "(lr, cfg.weight_decay * decay)", "(lr, cfg.weight_decay)", "test_hooks.py"),
    "step-without-rate": (TRAINING, "v if rates[k] == 1 else v * rates[k]", "v", "test_hooks.py"),
    "predict-unasked": (TRAINING, "return self.method.predict(p, s, x)", "return self.model.logits(p, self.model.embed(p, x)).argmax(-1)", "test_hooks.py"),
    "same-draw": (DIAG, "x, p, s | drawn, hs", "x, p, s, hs", "test_hooks.py"),
    "idle-untold": ("preflight.py", "if g is None and k.startswith(", "if False and k.startswith(", "test_hooks.py::test_parameters_that_no_term_reaches_are_told"),
    "draws-of-nothing": ("preflight.py", "if method.draws > 1 and not", "if False and not", "test_hooks.py::test_draws_of_nothing_are_refused"),
    "bars-of-nothing": ("figures.py", "label in rows if mean_sd(values.get(label, []))[2]]", "label in rows]", "test_protocol.py::test_bars_leave_out_what_has_no_value"),
    "name-of-a-prefix": ("figures.py", "re.fullmatch(pattern, label)", "re.match(pattern, label)", "test_protocol.py::test_a_reader_sees_a_name_in_place_of_a_label"),
    "not-run-in-tables": ("tables.py", 'run = rows[rows.verdict != "not run"]', "run = rows", "test_protocol.py::test_a_readers_table_holds_what_is_run_with_few_digits"),
    "calibrated-as-test": ("tables.py", "for part in (rows[~rows.calibrated], rows[rows.calibrated])", "for part in (rows, rows[rows.calibrated])", "test_protocol.py::test_a_comparison_in_words"),
    "badge-of-one": ("readme.py", '"partial" if done > 1 else', '"partial" if done else', "test_protocol.py::test_a_badge"),
    "claims-not-waiting": ("study.py", "for c in self.claims.values() if not c.found]", "for c in self.claims.values() if c.found]", "test_protocol.py::test_a_run_of_several_arms_is_noted_under_all_their_labels"),
}  # fmt: skip


def copied(folder):
    """A copy of what the tests need, in `folder`."""
    for part in ("faeval_core", "tests"):
        shutil.copytree(ROOT / part, folder / part, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):  # what a wheel is built from
        shutil.copy(ROOT / name, folder)
    (folder / "results").mkdir()
    return folder


def text_of(root, name):
    return (root / "faeval_core" / MUTATIONS[name][0]).read_text(encoding="utf-8")


def told(folder):
    """What pytest printed on a copy."""
    return (folder / "log").read_text(encoding="utf-8")


def tests_fail(folder, tests) -> bool:
    """Run tests of a copy in a forked process, which shares this one's imports of torch but not of faeval_core."""
    log = folder / "log"
    pid = os.fork()
    if pid == 0:
        with open(log, "w", encoding="utf-8") as f:
            os.dup2(f.fileno(), 1)
            os.dup2(f.fileno(), 2)
        os.chdir(folder)
        os.environ["PYTHONPATH"] = os.pathsep.join([str(folder), str(folder / "tests")])
        sys.path[:0] = [str(folder), str(folder / "tests")]
        import faeval_core

        assert Path(faeval_core.__file__).is_relative_to(folder)
        os._exit(
            pytest.main(["-x", "-q", "-p", "no:cacheprovider", *(f"tests/{t}" for t in tests)])
        )
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    if code not in (0, 1):  # 1: tests ran and failed; anything else is no verdict
        sys.exit(f"pytest ended with code {code} on {tests}:\n{told(folder)[-3000:]}")
    return code == 1


def main(names):
    unknown = sorted(set(names) - set(MUTATIONS))
    if unknown:
        sys.exit(f"unknown mutations {unknown} (known: {', '.join(MUTATIONS)})")
    names = names or list(MUTATIONS)
    stale = [n for n in names if text_of(ROOT, n).count(MUTATIONS[n][1]) != 1]
    if stale:
        sys.exit(
            f"the old texts of {stale} no longer occur exactly once; bring MUTATIONS up to date"
        )
    survivors = []
    with tempfile.TemporaryDirectory() as temporary:
        if tests_fail(
            copied(Path(temporary, "sound").resolve()), sorted({MUTATIONS[n][3] for n in names})
        ):
            sys.exit(
                f"the tests fail without any mutation:\n{told(Path(temporary, 'sound'))[-3000:]}"
            )
        for name in names:
            started = time.perf_counter()
            folder = copied(Path(temporary, name).resolve())
            file, old, new, tests = MUTATIONS[name]
            (folder / "faeval_core" / file).write_text(
                text_of(folder, name).replace(old, new), encoding="utf-8"
            )
            caught = tests_fail(folder, [tests])
            survivors += [] if caught else [name]
            by = [
                line.split(" ")[1]
                for line in told(folder).splitlines()
                if line.startswith("FAILED")
            ]
            shutil.rmtree(folder)
            verdict, seconds = "caught" if caught else "SURVIVED", time.perf_counter() - started
            print(f"{name:20} {verdict:9}{seconds:6.1f} s  {' '.join(by)}", flush=True)
    print(
        f"{len(names) - len(survivors)} of {len(names)} caught"
        + (f"; survived: {', '.join(survivors)}" if survivors else "")
    )
    return bool(survivors)


if __name__ == "__main__":
    import pytest
    import torch._dynamo
    import torchvision  # noqa: F401

    torch.set_num_threads(1)
    sys.exit(main(sys.argv[1:]))
